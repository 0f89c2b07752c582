"""Real numbers as words of the ring, their bytes, and their shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms_of_parties import EDGES, LARGEST, LEAST, seeded

from smpc_fl.errors import BadInput, CapacityExceeded, MalformedMessage, NotFinite
from smpc_fl.shared_tensors.sharing import join, split
from smpc_fl.shared_tensors.words import (
    RANGE_BITS,
    SCALE,
    decode,
    encode,
    from_bytes,
    shift_right,
    signed,
    to_bytes,
    unsigned,
)

WORDS = st.lists(st.integers(LEAST, LARGEST), max_size=20).map(lambda xs: torch.tensor(xs, dtype=torch.int64))


@given(st.floats(-(2.0**43), 2.0**43), st.integers(1, 40))
def test_rounds_to_the_nearest(value: float, scale: int) -> None:
    if abs(value) * 2**scale < 2.0**RANGE_BITS - 2**10:
        words = encode(torch.tensor(value, dtype=torch.float64), scale)
        assert abs(int(words) - value * 2**scale) <= 0.5
        assert abs(float(decode(words, scale)) - value) <= 2.0 ** -(scale + 1) + abs(value) * 2.0**-52


def test_ties_go_to_even_whatever_the_type() -> None:
    assert encode(torch.tensor([0.5, 1.5, -0.5, -2.5]), 0).tolist() == [0, 2, 0, -2]
    assert encode(torch.tensor([True, False])).tolist() == [1 << SCALE, 0]
    assert encode(torch.empty(0, 3)).shape == (0, 3)


def test_negative_numbers_are_not_off_by_one() -> None:
    """CrypTen 0.4.1 decodes some of them wrong by exactly 1."""
    values = torch.arange(-100 * 2**SCALE, 100 * 2**SCALE, 997, dtype=torch.float64) / 2**SCALE
    assert torch.equal(decode(encode(values)), values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(NotFinite):
        encode(torch.tensor([1.0, value]))


@pytest.mark.parametrize("sign", [1, -1])
def test_refuses_what_is_too_large_and_names_the_limit(sign: int) -> None:
    encode(torch.tensor([sign * (2.0**44 - 1)], dtype=torch.float64))
    with pytest.raises(CapacityExceeded, match=r"2\^44"):
        encode(torch.tensor([sign * 2.0**44]))


def test_refuses_complex_numbers() -> None:
    with pytest.raises(BadInput, match="real"):
        encode(torch.tensor([1j]))


@settings(max_examples=40)
@given(WORDS)
def test_bytes_and_back(words: torch.Tensor) -> None:
    data = to_bytes(words)
    assert bytes(data) == b"".join((int(word) % 2**64).to_bytes(8, "little") for word in words)
    assert torch.equal(from_bytes(data, tuple(words.shape)), words)
    assert torch.equal(signed(unsigned(words), tuple(words.shape)), words)
    assert bytes(to_bytes(unsigned(words))) == bytes(data)
    with pytest.raises(MalformedMessage):
        from_bytes(bytes(data) + b"\0", tuple(words.shape))


def test_words_that_do_not_lie_in_one_piece() -> None:
    words = torch.arange(6).reshape(2, 3).T
    assert bytes(to_bytes(words)) == bytes(to_bytes(words.contiguous()))


@pytest.mark.parametrize("bits", [0, 1, 18, 63])
def test_shifts_as_unsigned(bits: int) -> None:
    words = torch.tensor(EDGES).reshape(5, 11)
    assert [int(w) % 2**64 for w in shift_right(words, bits).flatten()] == [(w % 2**64) >> bits for w in EDGES]


@settings(max_examples=40)
@given(WORDS, st.integers(2, 5))
def test_shares_add_up(words: torch.Tensor, parties: int) -> None:
    shares = split(words, parties, seeded(parties))
    assert len(shares) == parties
    assert torch.equal(join(shares), words)


def test_sharing_takes_two() -> None:
    with pytest.raises(BadInput, match="two or more"):
        split(torch.zeros(1, dtype=torch.int64), 1, seeded(0))
