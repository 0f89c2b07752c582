"""Smaller updates: what survives rotation, few bits and a mask, and that it all commutes with adding."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import smpc_fl as sf
from smpc_fl.errors import BadInput
from smpc_fl.learning.compression import BLOCK, Compression, Compressor, hadamard, weight_in_units
from smpc_fl.learning.shared import Shared, shared_of
from smpc_fl.learning.training import train_locally
from smpc_fl.nodes.training_job import training_job
from smpc_fl.protocols.work import subject_of, weight_of, work_of

SEED = bytes(range(16))


def compressor(size: int, clip: float = 10.0, round_number: int = 0, **how: Any) -> Compressor:
    return Compressor(Compression(**how), size, clip, SEED, round_number)


def update(size: int, norm: float = 3.0, seed: int = 0) -> Any:
    vector = np.random.default_rng(seed).standard_normal(size) ** 3  # a few large ones, many small
    return (vector * norm / np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_transform_is_hadamards_matrix_and_its_own_inverse(n: int) -> None:
    matrix = np.array([[1.0]])
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    rows = np.random.default_rng(1).standard_normal((3, n))
    np.testing.assert_allclose(hadamard(rows), rows @ matrix / math.sqrt(n), atol=1e-12)
    np.testing.assert_allclose(hadamard(hadamard(rows)), rows, atol=1e-12)


@given(
    st.sampled_from([1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 700]), st.sampled_from([2, 4, 8, 16]),
    st.sampled_from([0.1, 0.5, 1.0]), st.booleans(), st.booleans(), st.sampled_from([0.125, 0.5, 1.0]),
)  # fmt: skip
def test_payload_and_residual_make_up_the_update(
    size: int, bits: int, keep: float, rotate: bool, feedback: bool, wish: float
) -> None:
    small = compressor(size, bits=bits, keep=keep, rotate=rotate, feedback=feedback)
    given_, weight = update(size), weight_in_units(wish, bits)
    payload, residual, clipped = small.compress(given_, np.zeros(size, np.float32), weight, "alice")
    assert payload.shape == (small.length,)
    assert np.abs(payload).max() <= 1
    units = payload * weight * 2.0 ** (bits - 1)
    np.testing.assert_allclose(units, np.rint(units), atol=1e-6)
    assert not clipped
    sent = small.expand(payload)
    assert sent.shape == (size,)
    assert np.count_nonzero(sent) <= small.kept
    if feedback:
        np.testing.assert_allclose(sent + residual, given_, atol=1e-5)
    else:
        assert not residual.any()


def test_the_mean_of_the_payloads_is_that_of_the_updates() -> None:
    small = compressor(5000, bits=12, keep=0.3)
    updates = [update(5000, seed=n) for n in range(5)]
    sent = [small.compress(u, np.zeros(5000, np.float32), 1.0, f"owner-{n}")[0] for n, u in enumerate(updates)]
    mean = small.expand(np.mean(sent, axis=0))
    exact = np.mean(updates, axis=0)
    travelled = mean != 0
    assert travelled.sum() <= 1500
    assert np.linalg.norm((mean - exact)[travelled]) < 0.02 * np.linalg.norm(exact[travelled])


def test_without_feedback_the_mean_over_rounds_is_unbiased() -> None:
    given_ = update(300, norm=5.0)
    total = np.zeros(300)
    for number in range(600):
        small = compressor(300, bits=3, keep=0.5, feedback=False, round_number=number)
        total += small.expand(small.compress(given_, np.zeros(300, np.float32), 1.0, "alice")[0])
    assert np.linalg.norm(total / 600 - given_) < 0.12 * np.linalg.norm(given_)


def test_feedback_sends_in_the_end_what_one_round_has_lost() -> None:
    given_, residual, total = update(300, norm=5.0), np.zeros(300, np.float32), np.zeros(300)
    for number in range(80):
        small = compressor(300, bits=4, keep=0.4, round_number=number, clip=25.0)
        payload, residual, _ = small.compress(given_, residual, 1.0, "alice")
        total += small.expand(payload)
    assert np.linalg.norm(total / 80 - given_) < 0.1 * np.linalg.norm(given_)


def test_what_is_over_the_clip_is_counted() -> None:
    small = compressor(400, clip=1.0)
    payload, _, clipped = small.compress(update(400, norm=4.0), np.zeros(400, np.float32), 1.0, "alice")
    assert clipped
    assert np.linalg.norm(small.expand(payload)) == pytest.approx(1.0, abs=0.05)


def test_the_clip_is_of_what_travels() -> None:
    """What waits at home for its turn is as large as it likes."""
    small, residual = compressor(400, clip=2.0, keep=0.25, bits=8), np.full(400, 0.15, np.float32)  # a norm of 3
    payload, left, clipped = small.compress(np.zeros(400, np.float32), residual, 1.0, "alice")
    assert not clipped
    sent = small.expand(payload)
    np.testing.assert_allclose(sent + left, residual, atol=1e-6)
    assert np.linalg.norm(sent) == pytest.approx(1.5, abs=0.1)
    assert compressor(400, clip=1.0, keep=0.25).compress(residual, np.zeros_like(residual), 1.0, "alice")[2]


@pytest.mark.parametrize(
    ("size", "keep", "blocks"),
    [
        (6000, 0.25, [1024, 512]),
        (6000, 1.0, [BLOCK, 2048]),
        (BLOCK + 3, 1.0, [BLOCK, 4]),
        (300, 1.0, [512]),
        (200, 1.0, [256]),
        (2 * BLOCK, 0.5, [BLOCK]),
        (BLOCK - 1, 1.0, [BLOCK]),
    ],
)
def test_blocks_have_little_room_to_spare(size: int, keep: float, blocks: list[int]) -> None:
    small = compressor(size, keep=keep)
    assert list(small._blocks()) == blocks
    assert small.length == sum(blocks)


def test_blocks_are_mixtures() -> None:
    """A layer of large numbers does not fill a block of its own, whose integers would not reach that far."""
    given_ = np.concatenate([np.full(1500, 0.001, np.float32), np.full(1500, 0.1, np.float32)])
    small = compressor(3000, keep=0.5, bits=6, clip=3.0)
    payload, _, _ = small.compress(given_, np.zeros_like(given_), 1.0, "alice")
    norms = [np.linalg.norm(part) for part in np.split(payload, [1024])]
    assert norms[0] / norms[1] == pytest.approx(math.sqrt(2), rel=0.1)


def test_few_bits_do_not_reach_far() -> None:
    """An owner of half the largest weight: the range is that of the least error, and what is beyond stays at home."""
    given_ = np.random.default_rng(1).standard_normal(BLOCK).astype(np.float32)
    nothing, clip = np.zeros_like(given_), float(np.linalg.norm(given_))

    def error(bits: int, factor: float = 1.0) -> float:
        small = compressor(BLOCK, clip * factor, bits=bits)
        return float(np.linalg.norm(small.compress(given_, nothing, 0.5, "alice")[1]))

    for bits in (2, 4, 6):
        assert error(bits) < error(bits, 2.0)
        assert compressor(BLOCK, bits=bits).bound < compressor(BLOCK, bits=bits, feedback=False).bound


def test_rotation_makes_few_bits_enough() -> None:
    given_ = np.zeros(BLOCK, np.float32)
    given_[7] = 5.0  # all of it in one coordinate
    nothing = np.zeros(BLOCK, np.float32)
    turned = compressor(BLOCK, bits=6)
    assert np.linalg.norm(turned.expand(turned.compress(given_, nothing, 1.0, "alice")[0]) - given_) < 0.8


def test_rounds_and_owners_draw_differently_and_the_same_again() -> None:
    nothing, given_ = np.zeros(1000, np.float32), update(1000)
    first = compressor(1000, bits=4, keep=0.5)
    one = first.compress(given_, nothing, 1.0, "alice")[0]
    np.testing.assert_array_equal(one, first.compress(given_, nothing, 1.0, "alice")[0])
    assert (one != first.compress(given_, nothing, 1.0, "bob")[0]).any()
    other = compressor(1000, bits=4, keep=0.5, round_number=2)
    assert ((first.expand(one) != 0) != (other.expand(other.compress(given_, nothing, 1.0, "alice")[0]) != 0)).any()


def test_weights_are_whole_units() -> None:
    assert weight_in_units(1.0, 4) == 1.0
    assert weight_in_units(0.3, 4) == 0.25
    assert weight_in_units(1e-9, 4) == 0.125


X = torch.randn(240, 12, generator=torch.Generator().manual_seed(3))
Y = (X[:, :4].sum(1) > 0).long()
OWNERS = {
    name: {"x": X[n * 80 : (n + 1) * 80], "y": Y[n * 80 : (n + 1) * 80]} for n, name in enumerate(("ann", "ben", "cai"))
}


@cache
def plan() -> sf.Plan:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(12, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2))
    return sf.Plan.from_module(net, example=(X[:4], Y[:4]))


def test_a_run_at_a_sixteenth_of_the_bytes_learns() -> None:
    options: dict[str, Any] = {
        "rounds": 12, "local": sf.LocalTraining(lr=0.1), "seed": 1, "max_samples": 80, "clip": 2.0,
        "evaluation": sf.Evaluation(inputs="x", targets="y", every=12),
    }  # fmt: skip
    plain = sf.simulate(plan(), OWNERS, **options, workers=1).wait().rounds
    small = (
        sf.simulate(plan(), OWNERS, **options, workers=1, compression=sf.Compression(bits=6, keep=0.25)).wait().rounds
    )
    assert small[0].ring_bits == 8
    bytes_of = [sum(r.traffic.uploaded["ann"] for r in rounds[:11]) / 11 for rounds in (plain, small)]
    assert bytes_of[1] < bytes_of[0] / 6  # what is left is signatures: the vector alone is a sixteenth
    assert small[-1].metrics["val_accuracy"] > plain[-1].metrics["val_accuracy"] - 0.03
    assert small[-1].metrics["val_accuracy"] > 0.9


def trained(**options: Any) -> tuple[Any, Any, Any, Shared]:
    """What ann's training changes, the mask of its round, what she keeps, and what is shared."""
    work = job(**options)
    result = train_locally(plan(), plan().initial, X[:80], Y[:80], work, round_number=3, owner="ann")
    shared = shared_of(work.plan, work.strategy, work.private)
    mask = Compressor(work.compression, shared.size, work.clip, work.seed, 3).mask
    return result.delta, mask, result.keep, shared


def changed(vector: Any) -> float:
    return np.count_nonzero(vector) / len(vector)


def test_owners_train_what_travels_and_nothing_else() -> None:
    local = sf.LocalTraining(epochs=2, lr=0.1, weight_decay=0.01)
    delta, mask, _, _ = trained(local=local, compression=Compression(keep=0.25, train_kept=True))
    assert mask.sum() == math.ceil(0.25 * len(delta))
    assert not delta[mask == 0].any()
    assert changed(delta[mask == 1]) > 0.9
    for everything in (Compression(keep=0.25), Compression(train_kept=True)):
        whole, none, _, _ = trained(local=local, compression=everything)
        assert none is None
        assert changed(whole) > 0.9
        assert np.linalg.norm(whole * mask - delta) > 0.01 * np.linalg.norm(delta)  # other steps, not some of them


@pytest.mark.parametrize("options", [{"strategy": sf.Ditto()}, {"private": ["2.*"]}])
def test_what_is_an_owners_own_is_trained_everywhere(options: dict[str, Any]) -> None:
    delta, mask, keep, shared = trained(**options, compression=Compression(keep=0.25, train_kept=True))
    assert not delta[mask == 0].any()
    own = keep.get("personal", plan().initial) - plan().initial
    if "private" in options:
        own = keep["private"] - shared.own(plan().initial)
    assert changed(own) > 0.9


def job(**options: Any) -> Any:
    common: dict[str, Any] = {
        "inputs": "x", "targets": "y", "rounds": 1, "local": None, "strategy": None, "evaluation": None, "stop": None,
        "clip": 2.0, "max_samples": 80, "tolerance": 1e-3, "ring_bits": None, "update_bits": None, "seed": 1,
    }  # fmt: skip
    return training_job(plan(), **{**common, **options})


def test_a_compressed_job_is_another_computation_in_a_small_ring() -> None:
    small = job(compression=Compression(bits=6, keep=0.5))
    assert subject_of(small, "train") != subject_of(job(), "train")
    assert subject_of(small, "train") != subject_of(job(compression=Compression(bits=5, keep=0.5)), "train")
    work = work_of(small, "train")
    assert (work.clip, work.mode, work.update_bits, work.layout.metrics) == (1.0, "saturate", 6, ())
    assert weight_of(small, "train", "ann", ["ann"], 80) == weight_in_units(80 / 128, 6)


def test_only_an_update_can_be_compressed() -> None:
    with pytest.raises(BadInput, match="Scaffold sends update, control"):
        job(strategy=sf.Scaffold(), compression=Compression())
