"""scikit-learn's estimators as plans: the network, loss, penalty and local training that each stands for, and back.

What an estimator minimises is kept, term by term. Options that only say how scikit-learn searches (solver, tol, max_iter,
n_jobs, random_state of linear models, …) have no part in it: the search is `rounds` and `local`. An option that would change
the result and is not supported is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from smpc_fl.errors import BadInput
from smpc_fl.jobs import LocalTraining
from smpc_fl.plans.document import Loss
from smpc_fl.plans.export import Penalty
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.plan import Plan

Tensors = Mapping[str, Vector]


@dataclass(frozen=True, eq=False)
class EstimatorPlan:
    """`plan` and `local`: what `estimator` stands for. `fitted(tensors, passes, losses)`: a copy of it with the trained tensors
    (`Run.tensors`), after so many passes over the data, with the training loss of each round."""

    estimator: Any = field(repr=False)
    plan: Plan
    local: LocalTraining
    fitted: Callable[[Tensors, int, Sequence[float]], Any] = field(repr=False)


@dataclass(frozen=True)
class _Task:
    """What the researcher says besides: the columns, the classes (sorted; None for a regression), all owners' rows."""

    features: int
    classes: np.ndarray[Any, Any] | None
    rows: int | None

    @property
    def outputs(self) -> int:
        return 1 if self.classes is None or len(self.classes) == 2 else len(self.classes)

    @property
    def loss(self) -> Loss:
        return "mse" if self.classes is None else "bce_with_logits" if self.outputs == 1 else "cross_entropy"


def estimator_plan(
    estimator: Any, *, features: int, classes: Sequence[Any] | None = None, rows: int | None = None
) -> EstimatorPlan:
    """The plan that a scikit-learn estimator stands for. `classes`: all labels, sorted; owners' targets are their positions,
    0, 1, …. `rows`: of all owners together, at which a penalty (LogisticRegression's C, Ridge's alpha) has its strength.

    Raises `BadInput` for an estimator or an option that is not supported, saying what to use instead."""
    from sklearn.base import is_classifier

    kind = type(estimator).__name__
    if kind not in _KINDS:
        raise BadInput(f"{kind} is not supported: use one of {', '.join(sorted(_KINDS))}")
    if features < 1:
        raise BadInput(f"features={features}: an estimator has one column at least")
    options, make = _KINDS[kind]
    _check_options(kind, estimator.get_params(), options)
    return make(estimator, _Task(features, _classes(kind, classes, is_classifier(estimator)), rows))


def _classes(kind: str, classes: Sequence[Any] | None, wanted: bool) -> np.ndarray[Any, Any] | None:
    if not wanted:
        if classes is not None:
            raise BadInput(f"{kind} is a regression: leave classes= out")
        return None
    if classes is None:
        raise BadInput(f"{kind} needs classes=: all labels, sorted, of which one owner may hold a few only")
    labels = np.asarray(classes)
    if labels.ndim != 1 or len(labels) < 2 or not np.array_equal(np.unique(labels), labels):
        raise BadInput(
            "classes= are two labels at least, sorted, each once; owners' targets are their positions 0, 1, …"
        )
    return labels


Allowed = Mapping[str, tuple[tuple[Any, ...], str]]
"""{option: (values that may stand there, what to use in the place of others)}."""


def _check_options(kind: str, values: Mapping[str, Any], allowed: Allowed) -> None:
    for name, (good, instead) in allowed.items():
        value = values.get(name, good[0])
        if not any(value is one or (type(value) is type(one) and value == one) for one in good):
            raise BadInput(f"{kind}({name}={value!r}) is not supported: {instead}")


_COLD = {"warm_start": ((False,), "leave it False; every training begins anew")}
_EQUAL = {
    "class_weight": ((None,), "leave it None; rows count the same, or owners by strategy=sf.FedAvg(weights='equal')")
}
_ENDS = {
    "early_stopping": ((False,), "leave it False, and give fit evaluation=sf.Evaluation(…) and stop=sf.Stop(…)"),
    "shuffle": ((True,), "leave it True; owners shuffle their rows for every pass"),
}
_LOGISTIC: Allowed = {
    "penalty": (("deprecated", "l2", None), "use the l2 penalty, or none by C=float('inf')"),
    "l1_ratio": ((0.0, 0, None), "use l1_ratio=0, which is the l2 penalty"),
    "dual": ((False,), "leave it False"),
    "intercept_scaling": ((1, 1.0), "leave it 1"),
    "solver": (
        ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"),
        "it penalises the intercept; leave it 'lbfgs'",
    ),
    **_EQUAL,
    **_COLD,
}
_LINEAR: Allowed = {"positive": ((False,), "leave it False; signs of coefficients are not constrained")}
_SGD: Allowed = {
    "loss": (("log_loss",), "use loss='log_loss', the one that gives probabilities"),
    "penalty": (("l2", None), "use penalty='l2' or None"),
    "learning_rate": (
        ("constant",),
        "use learning_rate='constant' with eta0, or give fit a strategy such as sf.FedAdam()",
    ),
    "average": ((False,), "leave it False; the federation averages"),
    **_ENDS,
    **_EQUAL,
    **_COLD,
}
_MLP: Allowed = {
    "solver": (("adam", "sgd"), "use solver='adam' or 'sgd'"),
    "beta_1": ((0.9,), "leave it 0.9"),
    "beta_2": ((0.999,), "leave it 0.999"),
    "epsilon": ((1e-8,), "leave it 1e-8"),
    "loss": (("squared_error",), "use loss='squared_error'"),
    **_ENDS,
    **_COLD,
}


# --- linear models ---


def _linear(
    estimator: Any, task: _Task, local: LocalTraining, strength: float, *, shape: Callable[[Any], Any]
) -> EstimatorPlan:
    """`strength` · ‖w‖² is added to the loss, of the coefficients alone. `shape`: of coef_ and intercept_, from [outputs, …]."""
    net = nn.Linear(task.features, task.outputs, bias=estimator.fit_intercept)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    plan = _plan(net, task, lambda net: strength * net.get_parameter("weight").square().sum() if strength else None)

    def fitted(tensors: Tensors, passes: int, losses: Sequence[float]) -> Any:
        done = _copy(estimator, task)
        done.coef_ = shape(tensors["weight"].astype(np.float64))
        none = np.zeros(task.outputs)
        done.intercept_ = shape(tensors["bias"].astype(np.float64) if "bias" in tensors else none)
        done.n_iter_ = passes
        return done

    return EstimatorPlan(estimator, plan, local, fitted)


def _logistic(estimator: Any, task: _Task) -> EstimatorPlan:
    """C Σ loss + ‖w‖²/2, divided by C · rows."""
    none = estimator.get_params().get("penalty") is None or math.isinf(estimator.C)
    strength = 0.0 if none else 1 / (2 * estimator.C * _rows(task, "LogisticRegression", "C=float('inf')"))
    made = _linear(estimator, task, LocalTraining(), strength, shape=lambda array: array)

    def fitted(tensors: Tensors, passes: int, losses: Sequence[float]) -> Any:
        done = made.fitted(tensors, passes, losses)
        done.n_iter_ = np.array([passes], np.int32)
        return done

    return EstimatorPlan(estimator, made.plan, made.local, fitted)


def _least_squares(estimator: Any, task: _Task) -> EstimatorPlan:
    return _linear(estimator, task, LocalTraining(), 0.0, shape=lambda array: array[0])


def _ridge(estimator: Any, task: _Task) -> EstimatorPlan:
    """Σ (y - ŷ)² + alpha ‖w‖², divided by the rows."""
    if np.ndim(estimator.alpha):
        raise BadInput("Ridge(alpha=[…]) is not supported: use one alpha")
    strength = float(estimator.alpha) / _rows(task, "Ridge", "alpha=0") if estimator.alpha else 0.0
    return _linear(estimator, task, LocalTraining(), strength, shape=lambda array: array[0])


def _sgd(estimator: Any, task: _Task) -> EstimatorPlan:
    """loss + alpha/2 ‖w‖², a row at a time."""
    if task.outputs > 1:
        raise BadInput("SGDClassifier trains one classifier for each of three or more classes: use LogisticRegression")
    strength = estimator.alpha / 2 if estimator.penalty else 0.0
    local = LocalTraining(batch_size=1, lr=estimator.eta0)
    return _linear(estimator, task, local, strength, shape=lambda array: array)


# --- multi-layer perceptrons ---

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU
}  # fmt: skip


def _mlp(estimator: Any, task: _Task) -> EstimatorPlan:
    """loss + alpha/2 ‖W‖² / batch_size; the regression's loss is half of the squared error, whose double is minimised."""
    from sklearn.base import clone

    half = 0.5 if task.classes is None else 1.0
    batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
    local = LocalTraining(batch_size=batch, optimizer="adam", lr=estimator.learning_rate_init)
    if estimator.solver == "sgd":
        if estimator.learning_rate != "constant":
            raise BadInput(f"learning_rate={estimator.learning_rate!r} is not supported: use learning_rate='constant'")
        if estimator.nesterovs_momentum and estimator.momentum:
            raise BadInput("nesterovs_momentum=True is not supported: use nesterovs_momentum=False, or solver='adam'")
        lr = half * estimator.learning_rate_init
        local = LocalTraining(batch_size=batch, optimizer="sgd", lr=lr, momentum=estimator.momentum)
    # scikit-learn makes the first weights, by its rule and random_state, and all that it keeps beside them.
    first = clone(estimator).set_params(learning_rate_init=1e-30, batch_size="auto")
    rows = np.zeros((1 if task.classes is None else len(task.classes), task.features))
    labels = {} if task.classes is None else {"classes": task.classes}
    first.partial_fit(rows, np.zeros(1) if task.classes is None else task.classes, **labels)
    layers: list[nn.Module] = []
    for weight, bias in zip(first.coefs_, first.intercepts_, strict=True):
        linear = nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
        layers += [linear, _ACTIVATIONS[estimator.activation]()]
    weights = [f"{2 * n}.weight" for n in range(len(first.coefs_))]
    strength = estimator.alpha / (2 * batch * half)

    def penalty(net: nn.Module) -> torch.Tensor | None:
        squares = [net.get_parameter(name).square().sum() for name in weights]
        return strength * torch.stack(squares).sum() if strength else None

    plan = _plan(nn.Sequential(*layers[:-1]), task, penalty)

    def fitted(tensors: Tensors, passes: int, losses: Sequence[float]) -> Any:
        done = clone(estimator)
        made = {name: value for name, value in first.__dict__.items() if name not in done.get_params()}
        done.__dict__.update(made)
        done.coefs_ = [tensors[name].T.astype(np.float64) for name in weights]
        done.intercepts_ = [tensors[name.replace("weight", "bias")].astype(np.float64) for name in weights]
        done.n_iter_, done.loss_curve_ = passes, [half * loss for loss in losses]
        if losses:
            done.loss_, done.best_loss_ = done.loss_curve_[-1], min(done.loss_curve_)
        return done

    return EstimatorPlan(estimator, plan, local, fitted)


# --- common to all ---


def _plan(net: nn.Module, task: _Task, penalty: Callable[[nn.Module], torch.Tensor | None]) -> Plan:
    added: Penalty | None = None
    if penalty(net) is not None:
        added = penalty  # type: ignore[assignment]
    x = np.zeros((2, task.features), np.float32)
    y = np.zeros(2, np.int64 if task.outputs > 1 else np.float32)
    return Plan.from_module(net, task.loss, example=(x, y), penalty=added)


def _copy(estimator: Any, task: _Task) -> Any:
    from sklearn.base import clone

    done = clone(estimator)
    done.n_features_in_ = task.features
    if task.classes is not None:
        done.classes_ = task.classes.copy()
    return done


def _rows(task: _Task, kind: str, without: str) -> int:
    if task.rows is None or task.rows < 1:
        raise BadInput(
            f"{kind} weighs its penalty against the number of rows, which stays with the owners: give rows=, about how many "
            f"there are together, or {without}"
        )
    return task.rows


_KINDS: Mapping[str, tuple[Allowed, Callable[[Any, _Task], EstimatorPlan]]] = {
    "LogisticRegression": (_LOGISTIC, _logistic),
    "LinearRegression": (_LINEAR, _least_squares),
    "Ridge": (_LINEAR, _ridge),
    "SGDClassifier": (_SGD, _sgd),
    "MLPClassifier": ({name: rule for name, rule in _MLP.items() if name != "loss"}, _mlp),
    "MLPRegressor": (_MLP, _mlp),
}
