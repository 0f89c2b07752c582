"""Keras 3 models on the torch backend: the same plans, and trained weights back in the model.

One file, so that one process of the tests imports keras, which takes its time. The torch backend stands in for TensorFlow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from documents import FENCE, ROOT
from sklearn.datasets import load_diabetes

import smpc_fl as sf
from smpc_fl.errors import PlanRejected, ShapeMismatch
from smpc_fl.frameworks.keras_models import as_module
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.operators import table

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)  # Keras'

GENERATOR = torch.Generator().manual_seed(6)


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    """Keras on torch, with a home of its own; it reads both when it is first imported."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", home)
        patch.setenv("KERAS_BACKEND", "torch")
        import keras

        yield keras


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(6, *shape, generator=GENERATOR)


Layers = Callable[[Any], list[Any]]

MODELS: dict[str, tuple[Layers, tuple[int, ...], str]] = {
    "tabular": (
        lambda k: [
            k.Rescaling(0.5), k.Dense(6, activation="relu", kernel_regularizer="l2"), k.BatchNormalization(momentum=0.9),
            k.Dropout(0.5, seed=3), k.LayerNormalization(), k.Dense(1, use_bias=False, kernel_regularizer="l1"),
        ],
        (5,),
        "mse",
    ),
    "image": (
        lambda k: [
            k.Conv2D(3, 3, padding="same", activation="selu"), k.BatchNormalization(center=False, scale=False),
            k.MaxPooling2D(), k.Flatten(), k.Dense(3),
        ],
        (4, 4, 2),
        "cross_entropy",
    ),
    "words": (lambda k: [k.Embedding(9, 4), k.GlobalAveragePooling1D(), k.Dense(1)], (5,), "bce_with_logits"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_computes_what_the_keras_model_computes(name: str, keras: Any) -> None:
    """Predictions, loss with regularizers, gradients by Keras' own backward pass, and what becomes of running statistics."""
    layers, shape, loss = MODELS[name]
    model = keras.Sequential([keras.Input(shape), *layers(keras.layers)])
    for layer in model.layers:
        if "dropout" in layer.name:
            layer.rate = 0.0
    x = torch.ones(6, *shape, dtype=torch.int64) if name == "words" else rows(*shape)
    y = torch.tensor([0, 1, 2, 0, 1, 2]) if loss == "cross_entropy" else torch.tensor([0.0, 1, 0, 1, 1, 0])
    before = [np.array(v.numpy()) for v in model.variables]
    plan = sf.Plan.from_keras(model, loss, example=(x, y))  # type: ignore[arg-type]
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables, strict=True))
    again = sf.Plan.from_bytes(plan.to_bytes())
    values = {**bind(again.layout, plan.initial, trainable=True), "$x": x, "$y": y}
    _, prediction = run(again.document.evaluate, values, table())
    expected = model(x, training=False)
    torch.testing.assert_close(prediction, expected.reshape(prediction.shape))
    torch.testing.assert_close(plan.module_with(plan.initial).eval()(x), expected)

    losses = {
        "mse": keras.losses.MeanSquaredError(),
        "cross_entropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "bce_with_logits": keras.losses.BinaryCrossentropy(from_logits=True),
    }
    trained, _ = run(again.document.train, values, table())
    trained.backward()
    model.zero_grad()
    scores = model(x, training=True)
    loss_there = losses[loss](y if loss == "cross_entropy" else y.reshape(scores.shape), scores) + sum(model.losses)
    loss_there.backward()
    torch.testing.assert_close(trained, loss_there)
    for variable in model.trainable_variables:
        tensor = values["@" + variable.path.removeprefix(model.name + "/").replace("/", ".")]
        torch.testing.assert_close(tensor.grad, variable.value.grad, rtol=1e-4, atol=1e-5)
    for variable in (v for v in model.non_trainable_variables if v.dtype == "float32"):
        tensor = values["@" + variable.path.removeprefix(model.name + "/").replace("/", ".")]
        # Keras divides a batch's variance by the rows, torch by one less, of what is kept for later.
        torch.testing.assert_close(tensor, variable.value, rtol=0.02, atol=0.01)


def test_what_the_page_says_runs_as_written(
    keras: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/frameworks.md, in the one process that has keras."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # which the page sets: taken back afterwards
    text = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    blocks = [match["text"] for match in FENCE.finditer(text) if match["language"] == "python"]
    for number, block in enumerate(blocks):
        exec(compile(block, "frameworks.md", "exec"), {"__name__": f"page_frameworks_{number}"})  # noqa: S102 (our own page)
    shown = {name: float(value) for name, value, *_ in map(str.split, capsys.readouterr().out.splitlines())}
    assert shown["keras"] < 0.75
    assert shown["sklearn"] > 0.95
    assert shown["quantile"] == pytest.approx(68.0, abs=1.0)  # that of all rows together: 68.04


def test_the_second_articles_network_on_the_diabetes_data(keras: Any) -> None:
    """Dense(10, relu)-Dense(10, relu)-Dense(1), squared error, four owners; the figures of a pooled training beside it."""
    x, y = load_diabetes(return_X_y=True)
    x, y = (x / x.std(0)).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    test, parts = order[:90], np.array_split(order[90:], 4)
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(10, activation="relu") for _ in range(2)]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])  # as the article has it: built by its first rows
    model.compile(optimizer="sgd", loss="mse")
    plan = sf.Plan.from_keras(model, example=(x[:4], y[:4]))
    owners = {f"owner-{n}": {"x": x[part], "y": y[part]} for n, part in enumerate(parts)}
    local = sf.LocalTraining(epochs=2, batch_size=16, lr=0.03)
    federated = sf.simulate(plan, owners, rounds=8, local=local, seed=1).wait()
    pooled = sf.simulate(
        plan, {"all": {"x": x[order[90:]], "y": y[order[90:]]}}, rounds=8, local=local, k_min=1, seed=1
    ).wait()
    errors = {}
    for name, result in (("federated", federated), ("pooled", pooled)):
        sf.load_keras(model, result.tensors)
        errors[name] = float(np.mean((model.predict(x[test], verbose=0).ravel() - y[test]) ** 2))
    assert errors["federated"] < 0.75 * float(np.var(y[test]))
    assert errors["federated"] < errors["pooled"] + 0.05
    assert model.evaluate(x[test], y[test], verbose=0) == pytest.approx(errors["pooled"], rel=1e-4)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (lambda k: [k.LSTM(3)], "'lstm.*recurrent layers.*Conv1D"),
        (lambda k: [k.GaussianNoise(0.1)], "'gaussian_noise.*random numbers.*use Dropout"),
        (lambda k: [k.Dense(3, activity_regularizer="l2")], "activity_regularizer.*kernel_regularizer"),
        (lambda k: [k.BatchNormalization(renorm=True)], "without renorm"),
        (lambda k: [k.Dense(3, activation="softmax")], "ends with softmax.*cross_entropy works on the scores"),
        (lambda k: [k.Dense(3), k.Softmax()], "ends with softmax"),
        (lambda k: [k.Dense(3, name="forward")], "'forward.kernel'.*rename the layer"),
    ],
)
def test_what_cannot_be_a_plan_is_named(layers: Layers, said: str, keras: Any) -> None:
    model = keras.Sequential([keras.Input((4, 2)), *layers(keras.layers)])
    with pytest.raises(PlanRejected, match=said):
        sf.Plan.from_keras(model, "cross_entropy", example=(rows(4, 2), torch.zeros(6).long()))


def test_losses_come_from_compile(keras: Any) -> None:
    example = (rows(4), torch.tensor([0, 1, 0, 1, 1, 0]))
    for loss, known in (
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "cross_entropy"),
        ("mean_squared_error", "mse"),
    ):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2 if known == "cross_entropy" else 1)])
        model.compile(loss=loss)
        assert sf.Plan.from_keras(model, example=example).document.loss == known
    for wrong, name in (
        ("sparse_categorical_crossentropy", "sparse_cat"),
        (keras.losses.Hinge(), "Hinge"),
        (None, "NoneType"),
    ):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(loss=wrong)
        with pytest.raises(PlanRejected, match=f"the loss {name}.*from_logits=True"):
            sf.Plan.from_keras(model, example=example)


def test_what_is_no_keras_model_on_torch_is_refused(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanRejected, match=r"Linear is no keras\.Model.*Plan\.from_module"):
        as_module(torch.nn.Linear(4, 1), rows(4))
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(PlanRejected, match="runs on jax here: set KERAS_BACKEND=torch"):
        as_module(keras.Sequential(), rows(4))


def test_masked_steps_are_refused(keras: Any) -> None:
    k = keras.layers
    model = keras.Sequential(
        [keras.Input((4, 2)), k.Masking(), k.BatchNormalization(), k.GlobalAveragePooling1D(), k.Dense(1)]
    )
    with pytest.raises(PlanRejected, match=r"'batch_normalization.*leave the mask out"):
        sf.Plan.from_keras(model, "mse", example=(rows(4, 2), torch.zeros(6)))


def test_only_tensors_of_the_model_are_loaded(keras: Any) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="head"), keras.layers.Dropout(0.5)])
    tensors = {"head.kernel": np.ones((4, 1), np.float32), "head.bias": np.zeros(1, np.float32)}
    sf.load_keras(model, tensors)
    assert np.array_equal(model.get_weights()[0], tensors["head.kernel"])
    with pytest.raises(ShapeMismatch, match=r"differ in 'head\.bias'"):
        sf.load_keras(model, {"head.kernel": tensors["head.kernel"]})
    with pytest.raises(ShapeMismatch, match=r"'head.kernel' has shape \(1, 4\)"):
        sf.load_keras(model, tensors | {"head.kernel": np.ones((1, 4), np.float32)})


def test_a_missing_value_at_an_owner_is_told_by_name(keras: Any) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    plan = sf.Plan.from_keras(model, "mse", example=(rows(4), torch.zeros(6)))
    owners = {name: {"x": rows(4), "y": torch.zeros(6)} for name in ("ann", "ben", "cai", "dan", "eve")}
    owners["ben"]["x"][0, 1] = float("nan")
    owners["dan"]["x"] = rows(3)
    (round_,) = sf.simulate(plan, owners, rounds=1).wait().rounds
    assert round_.included == ["ann", "cai", "eve"]
    assert "fill in missing values" in round_.missing["ben"]
    assert "the same columns" in round_.missing["dan"]
