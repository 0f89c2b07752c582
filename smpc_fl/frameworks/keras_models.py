"""Keras 3 models on the torch backend as networks of plans, and trained weights back into them.

A Keras layer holds its weights where torch.export does not find them, so the network here has them as parameters of its own
and lends them to the model for each call (`Model.stateless_call`). keras is imported by whoever made the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from smpc_fl.errors import PlanRejected, ShapeMismatch
from smpc_fl.plans.document import Loss
from smpc_fl.plans.export import Penalty
from smpc_fl.plans.layout import Vector

_LOSSES: Mapping[str, Loss] = {
    "mse": "mse",
    "mean_squared_error": "mse",
    "MeanSquaredError": "mse",
    "SparseCategoricalCrossentropy": "cross_entropy",
    "BinaryCrossentropy": "bce_with_logits",
}
"""What a model may be compiled with; the last two with from_logits=True."""
_PROBABILITIES = ("softmax", "sigmoid")


class KerasNetwork(nn.Module):
    """`model` as a torch network: x -> prediction, with weights of its own by their paths."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._lent = _Lent(model)
        self._trained = [self._place(v, trained=True) for v in model.trainable_variables]
        self._fixed = [self._place(v, trained=False) for v in model.non_trainable_variables]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import keras

        model = self._lent.model
        trained, fixed = ([_get(self, name) for name in names] for names in (self._trained, self._fixed))
        with keras.device("cpu"), _layers_of_torch(model):
            prediction: torch.Tensor = model.stateless_call(trained, fixed, x, training=self.training)[0]
        return prediction

    def regularizers(self) -> Iterator[tuple[Callable[[torch.Tensor], torch.Tensor], str]]:
        """(regularizer, name of the tensor that it is for)."""
        for variable, name in zip(self._lent.model.trainable_variables, self._trained, strict=True):
            if variable.regularizer is not None:
                yield variable.regularizer, name

    def _place(self, variable: Any, *, trained: bool) -> str:
        """Registers the variable's value under its name, folder by folder."""
        name = name_of(self._lent.model, variable)
        *folders, leaf = name.split(".")
        module: nn.Module = self
        value = variable.value.detach().cpu().clone()
        try:
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, nn.Module())
                module = module.get_submodule(folder)
            if trained:
                module.register_parameter(leaf, nn.Parameter(value))
            else:
                module.register_buffer(leaf, value)
        except KeyError:
            raise PlanRejected(
                f"the Keras model has two variables {name!r}, or torch has another use for a part of that name: rename the layer"
            ) from None
        return name


class _Lent:
    """The Keras model, which copies of the network share: it is never changed."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __deepcopy__(self, memo: object) -> _Lent:
        return self


def as_module(model: Any, example: torch.Tensor) -> KerasNetwork:
    """A network for plans, of `model`, which is built by the example's rows where it is not. Raises `PlanRejected`."""
    import keras

    if keras.config.backend() != "torch":
        raise PlanRejected(
            f"Keras runs on {keras.config.backend()} here: set KERAS_BACKEND=torch before keras is imported for the first time"
        )
    if not isinstance(model, keras.Model):
        raise PlanRejected(f"{type(model).__name__} is no keras.Model: torch networks go to Plan.from_module")
    if not model.built:
        with torch.no_grad():
            model(example)
    layers = list(model._flatten_layers())
    masked = any(isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False) for layer in layers)
    for layer in layers:
        if masked and isinstance(layer, keras.layers.BatchNormalization):
            raise PlanRejected(f"layer {layer.name!r} would normalise over masked steps: leave the mask out")
        if getattr(layer, "activity_regularizer", None) is not None:
            raise PlanRejected(f"layer {layer.name!r} has an activity_regularizer: use kernel_regularizer, or Dropout")
        if isinstance(layer, keras.layers.RNN):
            raise PlanRejected(
                f"layer {layer.name!r}: recurrent layers are not supported; use Conv1D, or Dense over the window"
            )
        if getattr(layer, "seed_generator", None) is not None and not _is_dropout(layer):
            raise PlanRejected(
                f"layer {layer.name!r} draws random numbers, a plan draws none: use Dropout without noise_shape"
            )
        if getattr(layer, "renorm", False):
            raise PlanRejected(f"layer {layer.name!r}: use BatchNormalization without renorm")
    return KerasNetwork(model)


def penalty_of(net: KerasNetwork) -> Penalty | None:
    """The sum of the layers' regularizers, of which Keras' own training makes a part of the loss; None without any."""
    terms = list(net.regularizers())

    def penalty(network: nn.Module) -> torch.Tensor:
        return torch.stack([regularizer(_get(network, name)) for regularizer, name in terms]).sum()

    return penalty if terms else None


def loss_of(model: Any) -> Loss:
    """The loss that `model` was compiled with. Raises `PlanRejected`, saying which ones there are."""
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else type(loss).__name__
    known = _LOSSES.get(name)
    if known is None or (known != "mse" and not getattr(loss, "from_logits", False)):
        raise PlanRejected(
            f"the Keras model is compiled with the loss {name}: give loss=, or compile it with MeanSquaredError(), "
            "SparseCategoricalCrossentropy(from_logits=True) or BinaryCrossentropy(from_logits=True)"
        )
    return known


def check_logits(model: Any, loss: Loss) -> None:
    """Raises `PlanRejected` where the last layer makes probabilities of what the loss takes for scores."""
    last = model.layers[-1] if getattr(model, "layers", None) else None
    activation = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if loss != "mse" and activation in _PROBABILITIES:
        raise PlanRejected(
            f"the Keras model ends with {activation}, and {loss} works on the scores before it: leave that activation out, and "
            f"apply keras.ops.{activation} to predictions"
        )


def load_keras(model: Any, tensors: Mapping[str, Vector]) -> None:
    """Put trained tensors (`Run.tensors`) into the Keras model that the plan was made from, or into one like it.

    Raises `ShapeMismatch` naming the tensor, before anything is changed. Whole-number variables stay as they are."""
    variables = {name_of(model, v): v for v in [*model.trainable_variables, *model.non_trainable_variables]}
    floats = {name: v for name, v in variables.items() if np.dtype(v.dtype).kind == "f"}
    if floats.keys() != tensors.keys():
        different = sorted(floats.keys() ^ tensors.keys())[0]
        raise ShapeMismatch(
            f"the Keras model and the tensors differ in {different!r}: give the model that the plan was made of"
        )
    for name, variable in floats.items():
        if tuple(variable.shape) != tensors[name].shape:
            raise ShapeMismatch(
                f"tensor {name!r} has shape {tensors[name].shape}, the Keras model's {tuple(variable.shape)}"
            )
    for name, variable in floats.items():
        variable.assign(tensors[name])


def name_of(model: Any, variable: Any) -> str:
    """What a plan calls a variable: its path below the model, "dense.kernel" (the model's own name is counted up in a
    session, so that it would give two plans of one model)."""
    path: str = variable.path
    return path.removeprefix(model.name + "/").replace(".", "-").replace("/", ".")


def _get(module: nn.Module, name: str) -> torch.Tensor:
    folder, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(folder), leaf)
    return tensor


@contextmanager
def _layers_of_torch(model: Any) -> Iterator[None]:
    """While it lasts, batch normalisation runs as torch's one operator, which plans let change running statistics, and
    dropout without the layer's own seed: an owner's node seeds it."""
    import keras

    with ExitStack() as stack:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.__dict__["call"] = _batch_norm(layer)
            elif _is_dropout(layer):
                layer.__dict__["call"] = _dropout(layer)
            else:
                continue
            stack.callback(layer.__dict__.pop, "call")
        yield


def _is_dropout(layer: Any) -> bool:
    import keras

    return type(layer) is keras.layers.Dropout and layer.noise_shape is None


def _dropout(layer: Any) -> Callable[..., torch.Tensor]:
    def call(inputs: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        return functional.dropout(inputs, layer.rate, bool(training))

    return call


def _batch_norm(layer: Any) -> Callable[..., torch.Tensor]:
    """As the layer's own, with torch's momentum = 1 - Keras', and an unbiased running variance, as torch has it."""

    def call(inputs: torch.Tensor, training: bool | None = None, mask: object = None) -> torch.Tensor:
        order = list(range(inputs.dim()))
        order.insert(1, order.pop(layer.axis))
        back = [order.index(place) for place in range(inputs.dim())]
        gamma, beta = (None if weight is None else weight.value for weight in (layer.gamma, layer.beta))
        out = functional.batch_norm(
            inputs.permute(order), layer.moving_mean.value, layer.moving_variance.value, gamma, beta,
            bool(training) and layer.trainable, 1 - layer.momentum, layer.epsilon,
        )  # fmt: skip
        return out.permute(back)

    return call
