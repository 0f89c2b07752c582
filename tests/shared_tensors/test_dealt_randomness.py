"""What is dealt: parties' shares are those of the provider's values, each taken once, none like another run's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from smpc_fl.errors import InternalError, MalformedMessage
from smpc_fl.prg import CHUNK, Prg, Reader
from smpc_fl.ring import RING64
from smpc_fl.shared_tensors.randomness import Counting, Dealing, Once, Source, Stream, Taking

RUN = bytes(32)


def dealt(source: Source) -> list[Any]:
    words, planes = source.uniform((2, 3)), source.uniform_bits((4, 2))
    return [
        words,
        planes,
        source.derived((2, 3), lambda: words * words),
        source.derived_bits((2, 2), lambda: planes[:2] & planes[2:]),
        source.derived_bits((0, 2), lambda: planes[:0]),
        source.uniform(()),
    ]


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_shares_are_those_of_the_values(parties: int) -> None:
    seeds = [bytes([party]) * 32 for party in range(parties)]
    provider = Dealing(seeds, RUN, 7)
    values = dealt(provider)
    takings = [Taking(seed, RUN, 7, provider.correction() if i == 1 else None) for i, seed in enumerate(seeds)]
    shares = [dealt(taking) for taking in takings]
    for taking in takings:
        taking.finish()
    for value, *mine in zip(values, *shares, strict=True):
        if isinstance(value, np.ndarray):
            assert np.array_equal(np.bitwise_xor.reduce(mine), value)
        else:
            assert torch.equal(torch.stack(mine).sum(0), value)
    assert torch.equal(values[2], values[0] * values[0])
    counting = Counting()
    dealt(counting)
    assert counting.bytes == len(provider.correction()) == 8 * 6 + 8 * 4


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:40], lambda data: b""])
def test_a_correction_that_is_too_short(change: Callable[[bytes], bytes]) -> None:
    provider = Dealing([bytes(32)], RUN, 0)
    dealt(provider)
    with pytest.raises(MalformedMessage, match="too short"):
        dealt(Taking(bytes(32), RUN, 0, change(provider.correction())))


def test_a_correction_that_is_too_long() -> None:
    provider = Dealing([bytes(32)], RUN, 0)
    dealt(provider)
    taking = Taking(bytes(32), RUN, 0, provider.correction() + b"\0")
    dealt(taking)
    with pytest.raises(MalformedMessage, match="too long"):
        taking.finish()


def test_a_step_is_taken_once() -> None:
    once = Once()
    once.take(3)
    once.take(4)
    with pytest.raises(InternalError, match="step 3"):
        once.take(3)


def test_another_run_step_or_party_is_another_stream() -> None:
    streams = [
        Stream(bytes(32), RUN, 0),
        Stream(bytes(32), RUN, 1),
        Stream(bytes(32), b"\1" * 32, 0),
        Stream(b"\1" * 32, RUN, 0),
    ]
    taken = [tuple(stream.take(4)) for stream in streams]
    assert len(set(taken)) == 4
    assert not set(taken[0]) & set(streams[0].take(1000))


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_read_from_front_to_back(seed: int) -> None:
    """In whatever pieces, it is that of `Prg`: also where a piece ends with a chunk, or right behind one."""
    sizes = [1, 7, 8, CHUNK - 16, CHUNK, CHUNK + 15, CHUNK + 16, 2 * CHUNK + 5, 3, 0, 4096, 20000]
    np.random.default_rng(seed).shuffle(sizes)
    reader = Reader(bytes(32))
    found = bytearray(sum(sizes))
    at = 0
    for size in sizes:
        reader.read(memoryview(found)[at : at + size])
        at += size
    expected = RING64.as_buffer(Prg(bytes(32)).expand(RING64, -(-len(found) // 8)))
    assert bytes(found) == bytes(expected[: len(found)])
