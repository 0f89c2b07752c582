"""scikit-learn's estimators over simulated owners: what they minimise, what comes back fitted, what is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

import smpc_fl as sf
from smpc_fl.errors import BadInput
from smpc_fl.frameworks.estimators import estimator_plan
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.operators import table


def standard(load: Any) -> tuple[Any, Any]:
    x, y = load(return_X_y=True)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


CANCER, WINE, DIABETES = standard(load_breast_cancer), standard(load_wine), standard(load_diabetes)
DIABETES = DIABETES[0], ((DIABETES[1] - 150) / 75).astype(np.float32)


def shared(data: tuple[Any, Any], count: int = 3) -> dict[str, dict[str, Any]]:
    order = np.random.default_rng(2).permutation(len(data[0]))
    return {
        f"owner-{n}": {"x": data[0][part], "y": data[1][part]} for n, part in enumerate(np.array_split(order, count))
    }


@pytest.mark.parametrize(
    ("estimator", "data", "classes"),
    [
        (LogisticRegression(C=0.05, tol=1e-8), CANCER, ["benign", "malignant"]),
        (LogisticRegression(C=0.05, fit_intercept=False, tol=1e-8), WINE, [0, 1, 2]),
        (Ridge(alpha=30.0), DIABETES, None),
        (Ridge(alpha=0), DIABETES, None),
        (SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, alpha=0.05), CANCER, [0, 1]),
    ],
    ids=["binary", "multinomial", "ridge", "least squares", "sgd"],
)
def test_the_objective_is_scikit_learns_own(estimator: Any, data: tuple[Any, Any], classes: Any) -> None:
    """Where scikit-learn ends, over all rows, the plan's loss has no slope: penalty and intercept are as they are there."""
    x, y = data
    made = estimator_plan(estimator, features=x.shape[1], classes=classes, rows=len(x))
    best = estimator
    if isinstance(estimator, SGDClassifier):  # whose descent row by row only comes near
        best = LogisticRegression(C=1 / (0.05 * len(x)), tol=1e-8)
    best = clone(best).fit(x, y)
    tensors = {"weight": np.atleast_2d(best.coef_).astype(np.float32)}
    if estimator.fit_intercept:
        tensors["bias"] = np.atleast_1d(best.intercept_).astype(np.float32)
    values = bind(made.plan.layout, made.plan.layout.flatten(tensors), trainable=True)
    kind = torch.int64 if made.plan.document.loss == "cross_entropy" else torch.float32
    loss, _ = run(
        made.plan.document.train, {**values, "$x": torch.from_numpy(x), "$y": torch.from_numpy(y).to(kind)}, table()
    )
    loss.backward()
    for tensor in values.values():
        assert tensor.grad is not None
        assert float(tensor.grad.abs().max()) < 2e-4
    found = made.fitted(tensors, 7, [])
    assert np.shape(found.coef_) == np.shape(best.coef_)
    assert np.shape(found.intercept_) == np.shape(best.intercept_)
    np.testing.assert_allclose(found.coef_, best.coef_, atol=1e-6)
    assert np.max(found.n_iter_) == 7
    assert found.get_params() == estimator.get_params()
    assert not hasattr(estimator, "coef_")
    if classes is not None:
        assert found.classes_.tolist() == classes
        assert set(found.predict(x[:20])) <= set(classes)


@pytest.mark.parametrize(
    ("estimator", "data", "classes", "least"),
    [
        (LogisticRegression(C=float("inf")), WINE, [0, 1, 2], 0.9),
        (LinearRegression(fit_intercept=False), DIABETES, None, 0.4),
        (MLPClassifier((8,), random_state=1, batch_size=16, learning_rate_init=0.01), CANCER, [0, 1], 0.95),
        (MLPClassifier((8, 6), "tanh", random_state=1, batch_size=16, learning_rate_init=0.02), WINE, list("abc"), 0.8),
        (
            MLPRegressor(
                hidden_layer_sizes=(8,), activation="logistic", solver="sgd", nesterovs_momentum=False,
                momentum=0.5, random_state=1, batch_size=16, learning_rate_init=0.1, alpha=0,
            ),
            DIABETES, None, 0.2,
        ),
    ],
)  # fmt: skip
def test_a_fitted_estimator_is_the_federated_model(estimator: Any, data: Any, classes: Any, least: float) -> None:
    """Its predictions, probabilities and score are those of the model that three owners trained."""
    x, y = data
    made = estimator_plan(estimator, features=x.shape[1], classes=classes, rows=len(x))
    trained = sf.simulate(
        made.plan, shared(data), local=made.local, rounds=3, seed=3, clip=100.0, executor="threads"
    ).wait()
    found = made.fitted(trained.tensors, 3, [r.metrics["loss"] for r in trained.rounds])
    with torch.no_grad():
        scores = trained.model(torch.from_numpy(x)).numpy()
    if classes is None:
        np.testing.assert_allclose(found.predict(x), scores.ravel(), atol=1e-5)
        assert found.score(x, y) > least
    else:
        odds = (
            1 / (1 + np.exp(-scores)) if scores.shape[1] == 1 else np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        )
        right = np.column_stack([1 - odds, odds]) if odds.shape[1] == 1 else odds
        np.testing.assert_allclose(found.predict_proba(x), right, atol=1e-5)
        assert found.predict(x).tolist() == [classes[n] for n in right.argmax(1)]
        assert found.score(x, np.array(classes)[y]) > least
    if hasattr(found, "coefs_"):
        assert found.loss_curve_[-1] < found.loss_curve_[0]
        assert (found.n_iter_, found.n_features_in_) == (3, x.shape[1])
        assert found.loss_ == found.loss_curve_[-1]


def test_the_first_network_and_its_steps_are_scikit_learns(recwarn: pytest.WarningsRecorder) -> None:
    """One owner and full batches: after three passes the weights are those of MLPRegressor, made by the same random_state."""
    x, y = DIABETES
    estimator = MLPRegressor(
        hidden_layer_sizes=(5,), activation="tanh", solver="sgd", momentum=0.5, nesterovs_momentum=False,
        random_state=7, batch_size=len(x), max_iter=3, learning_rate_init=0.05, alpha=2.0,
    )  # fmt: skip
    expected = clone(estimator).fit(x.astype(np.float64), y.astype(np.float64))
    recwarn.clear()  # it has not converged, and says so
    local = estimator_plan(estimator, features=10).local
    passes = sf.LocalTraining(**{name: getattr(local, name) for name in local.__struct_fields__} | {"epochs": 3})
    found = sf.sklearn.fit(
        estimator, {"all": {"x": x, "y": y}}, rounds=1, local=passes, k_min=1, ring_bits=64, clip=1e3
    )
    for mine, theirs in zip(
        [*found.coefs_, *found.intercepts_], [*expected.coefs_, *expected.intercepts_], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert found.n_iter_ == expected.n_iter_


def test_bad_owners_are_named_and_the_others_go_on() -> None:
    """Of five: one has only one class, which is well; one a missing value, one another column, one a class too many."""
    owners = shared(WINE, 7)
    owners["owner-0"]["y"] = np.zeros_like(owners["owner-0"]["y"])
    owners["owner-1"]["x"] = owners["owner-1"]["x"].copy()
    owners["owner-1"]["x"][0, 0] = np.nan
    owners["owner-2"]["x"] = owners["owner-2"]["x"][:, 1:]
    owners["owner-3"]["y"] = owners["owner-3"]["y"] + 1
    owners["owner-4"]["y"] = owners["owner-4"]["y"] + 0.5
    made = estimator_plan(LogisticRegression(), features=13, classes=[0, 1, 2], rows=178)
    (round_,) = sf.simulate(made.plan, owners, rounds=1, local=made.local).wait().rounds
    assert round_.included == ["owner-0", "owner-5", "owner-6"]
    for owner, said in (
        ("owner-1", "fill in missing values"),
        ("owner-2", "publish the same columns"),
        ("owner-3", "some targets are not classes 0..2"),
        ("owner-4", "tensor 'y' holds torch.float64, the plan expects int64"),
    ):
        assert said in round_.missing[owner]


SGD: dict[str, Any] = {"loss": "log_loss", "learning_rate": "constant"}


@pytest.mark.parametrize(
    ("estimator", "options", "said"),
    [
        (SGDClassifier(**SGD, penalty="l1"), {"classes": [0, 1]}, "penalty='l1'.*use penalty='l2' or None"),
        (Lasso(), {}, "Lasso is not supported: use one of LinearRegression, LogisticRegression"),
        (
            LogisticRegression(l1_ratio=0.5, solver="saga"),
            {"classes": [0, 1]},
            r"LogisticRegression\(l1_ratio=0.5\).*l1_ratio=0",
        ),
        (LogisticRegression(solver="liblinear"), {"classes": [0, 1]}, r"solver='liblinear'\).*penalises the intercept"),
        (LogisticRegression(class_weight="balanced"), {"classes": [0, 1]}, r"class_weight='balanced'\).*leave it None"),
        (LogisticRegression(warm_start=True), {"classes": [0, 1]}, "warm_start=True"),
        (LogisticRegression(), {}, "needs classes="),
        (LogisticRegression(), {"classes": [1, 0]}, "sorted"),
        (LogisticRegression(), {"classes": ["a"]}, "two labels at least"),
        (LogisticRegression(), {"classes": [0, 1]}, r"C=float\('inf'\)"),
        (LogisticRegression(), {"classes": [0, 1], "rows": 0}, "give rows="),
        (LogisticRegression(), {"classes": [0, 1], "features": 0}, "one column at least"),
        (LinearRegression(positive=True), {}, r"LinearRegression\(positive=True\)"),
        (LinearRegression(), {"classes": [0, 1]}, "is a regression: leave classes= out"),
        (Ridge(alpha=[1.0]), {"rows": 5}, "use one alpha"),
        (Ridge(), {}, "Ridge weighs its penalty.*or alpha=0"),
        (SGDClassifier(), {"classes": [0, 1]}, r"loss='hinge'\).*log_loss"),
        (SGDClassifier(loss="log_loss"), {"classes": [0, 1]}, r"learning_rate='optimal'\).*'constant' with eta0"),
        (SGDClassifier(**SGD, early_stopping=True), {"classes": [0, 1]}, "early_stopping=True.*sf.Stop"),
        (SGDClassifier(**SGD), {"classes": [0, 1, 2]}, "use LogisticRegression"),
        (MLPClassifier(solver="lbfgs"), {"classes": [0, 1]}, "use solver='adam' or 'sgd'"),
        (MLPClassifier(solver="sgd"), {"classes": [0, 1]}, "nesterovs_momentum=False"),
        (MLPClassifier(solver="sgd", learning_rate="adaptive"), {"classes": [0, 1]}, "learning_rate='constant'"),
        (MLPRegressor(loss="poisson"), {}, r"MLPRegressor\(loss='poisson'\)"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(estimator: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        estimator_plan(estimator, **{"features": 4, **options})


@pytest.mark.parametrize(
    ("owners", "said"),
    [
        ({}, "there is none"),
        ({"ann": {"age": np.ones((3, 2)), "y": np.ones(3)}}, "owner ann has no tensor 'x'; it has: age, y"),
        ({"ann": {"x": np.ones(3), "y": np.ones(3)}}, r"owner ann: 'x' must be a table.*not of shape \[3\]"),
    ],
)
def test_owners_without_a_table_are_named(owners: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        sf.sklearn.fit(LinearRegression(), owners)


class Deployed:
    """As much of a federation as `fit` uses."""

    def __init__(self, owners: dict[str, dict[str, Any]]) -> None:
        self._owners, self.owners = owners, sorted(owners)

    def __getitem__(self, owner: str) -> Any:
        return SimpleNamespace(
            tensor=lambda name: SimpleNamespace(known_shape=(None, *self._owners[owner][name].shape[1:]))
        )

    def train(self, plan: sf.Plan, **options: Any) -> sf.Run:
        return sf.simulate(plan, self._owners, **options)


def test_a_perceptron_without_a_loss_to_show() -> None:
    """Noise and compression leave no training loss: the estimator is fitted all the same."""
    made = estimator_plan(MLPClassifier((3,), alpha=0), features=4, classes=[0, 1])
    found = made.fitted(made.plan.layout.unflatten(made.plan.initial), 2, [])
    assert found.loss_curve_ == []
    assert found.predict(np.ones((2, 4))).shape == (2,)


def test_a_federation_says_its_columns_and_keeps_its_rows() -> None:
    """The columns come from a pointer; how many rows there are is the researcher's to say."""
    owners = shared(CANCER)
    fed: Any = Deployed(owners)
    with pytest.raises(BadInput, match="give rows="):
        sf.sklearn.fit(LogisticRegression(), fed, classes=[0, 1])
    options: dict[str, Any] = {"classes": [0, 1], "rounds": 1, "seed": 1}
    found = sf.sklearn.fit(LogisticRegression(), fed, rows=569, **options)
    simulated = sf.sklearn.fit(LogisticRegression(), owners, **options)
    assert np.array_equal(found.coef_, simulated.coef_)
    assert found.score(*CANCER) > 0.9
