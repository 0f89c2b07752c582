"""Functions of one opening: f(x) = Σ a_k(c) · b_k(r), where c = x + r is opened around a circle and r is uniform on it.

A party knows c, so a_k(c) is a public factor; the provider knows r, so b_k(r) is dealt; the sum over k is local. Two kinds of
f have such a form with few terms: sines and cosines (the addition theorems), hence every smooth function on an interval
by its Fourier series on a longer one, and the exponential function. One round, 4 bytes a value, however many terms.

The circle is Z_2^64: x is multiplied by a whole number first, `turn`, so that one turn is the period that is wanted. Only
the highest 32 bits are opened, each party's share rounded to them: c is right within m / 2 of 2^-32 of a turn, alike at all.
Opened: c, uniform. Nothing else depends on x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.angles import ANGLE_BITS, UNIT_BITS, cosine_and_sine, exponential, rounded_shift
from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.program import Type
from smpc_fl.shared_tensors.randomness import Source
from smpc_fl.shared_tensors.words import RANGE_BITS, Words, unsigned

COEFFICIENT_BITS = 26
_LOW_BITS = 64 - ANGLE_BITS
_MOST_HARMONICS = 64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dealt:
    """Shares (at the provider: values) of r, int64[shape], and of the b_k(r), int64[terms, shape]."""

    mask: Words
    terms: Words


def opened_angle(dealt: Dealt, x: Words, turn: int) -> Running:
    """turn · x + r as an angle."""
    share = x * turn + dealt.mask
    top = ((share >> (_LOW_BITS - 1)) + 1) >> 1  # rounded, so that no party adds a bias
    (opened,) = yield [Opening(top.to(torch.int32))]
    return opened.to(torch.int64) & ((1 << ANGLE_BITS) - 1)


def turns(mask: Words) -> torch.Tensor:
    """The dealt r as a part of a turn, float64[shape] in [0, 1)."""
    return torch.from_numpy(unsigned(mask).astype(np.float64) * 2.0**-64).reshape(mask.shape)


def deal(source: Source, shape: tuple[int, ...], count: int, terms: Callable[[torch.Tensor], torch.Tensor]) -> Dealt:
    """8 bytes a value and term to one party. `terms`: from `turns` to float64[count, shape], rounded here."""
    mask = source.uniform(shape)
    return Dealt(mask, source.derived((count, *shape), lambda: torch.round(terms(turns(mask))).to(torch.int64)))


# --- Fourier series ---


def series_type(types: Sequence[Type], parameters: Mapping[str, Any]) -> Type:
    (x,) = types
    harmonics, cosines, sines = (parameters[name] for name in ("harmonics", "cosines", "sines"))
    if x.sort != "share" or not harmonics or {len(cosines), len(sines)} != {len(harmonics)}:
        raise BadInput("a series takes a shared value, and a cosine and a sine for each of its harmonics")
    if len(harmonics) > _MOST_HARMONICS or any(not 0 < j <= _MOST_HARMONICS for j in harmonics):
        raise BadInput(f"a series has harmonics from 1 to {_MOST_HARMONICS}")
    if any(abs(a) >= 8 << COEFFICIENT_BITS for a in (*cosines, *sines)):
        raise BadInput("a series has coefficients below 8")
    if not 0 < parameters["scale"] < RANGE_BITS or not 0 < parameters["turn"] < 1 << 63:
        raise BadInput(f"a series has a scale of 1 to {RANGE_BITS - 1}, and a turn of less than the ring")
    return Type(x.shape, parameters["scale"])


def deal_series(source: Source, types: Sequence[Type], parameters: Mapping[str, Any], masks: Sequence[Any]) -> Dealt:
    """cos(2π j r) and sin(2π j r) for each harmonic j: 16 bytes a value and harmonic."""
    harmonics, unit = parameters["harmonics"], 2.0 ** _dealt_bits(parameters)

    def terms(part: torch.Tensor) -> torch.Tensor:
        angles = [2 * torch.pi * j * part for j in harmonics]
        return torch.stack([f(angle) * unit for angle in angles for f in (torch.cos, torch.sin)])

    return deal(source, types[0].shape, 2 * len(harmonics), terms)


def series(first: bool, dealt: Dealt, inputs: list[Words], parameters: Mapping[str, Any]) -> Running:
    """This party's share of Σ_j a_j cos(2π j turn x / 2^64) + b_j sin(…), a_j and b_j at scale `COEFFICIENT_BITS`."""
    c = yield from opened_angle(dealt, inputs[0], parameters["turn"])
    drop = UNIT_BITS + COEFFICIENT_BITS - (parameters["scale"] - _dealt_bits(parameters))
    total = torch.zeros_like(dealt.mask)
    for k, (j, a, b) in enumerate(
        zip(parameters["harmonics"], parameters["cosines"], parameters["sines"], strict=True)
    ):
        cosine, sine = cosine_and_sine((j * c) & ((1 << ANGLE_BITS) - 1))
        # cos(x) = cos c cos r + sin c sin r; sin(x) = sin c cos r - cos c sin r
        by_cosine = a * cosine + b * sine if a and b else a * cosine if a else b * sine
        by_sine = a * sine - b * cosine if a and b else a * sine if a else -b * cosine
        total += rounded_shift(by_cosine, drop) * dealt.terms[2 * k]
        total += rounded_shift(by_sine, drop) * dealt.terms[2 * k + 1]
    return total


def _dealt_bits(parameters: Mapping[str, Any]) -> int:
    """The scale is shared by what is dealt and what is public: errors of half a unit of each, a harmonic."""
    bits: int = (parameters["scale"] + 1) // 2
    return bits


# --- the exponential function ---


def exponential_type(types: Sequence[Type], parameters: Mapping[str, Any]) -> Type:
    (x,) = types
    dealt, public, width, segments = (parameters[name] for name in ("dealt", "public", "width", "segments"))
    if x.sort != "share" or not 0 < dealt < dealt + public < RANGE_BITS:
        raise BadInput(f"exp takes a shared value, and has a scale of 2 to {RANGE_BITS - 1}")
    if not 0 < parameters["turn"] < 1 << 63 or abs(parameters["low"]) > 512:
        raise BadInput("exp starts at -512 at the lowest, and has a turn of less than the ring")
    if not 4 <= segments <= 4 * width <= 2048 or width & (width - 1):
        raise BadInput("exp goes round a circle of a power of two, 512 at most, in four segments or more")
    return Type(x.shape, dealt + public)


def deal_exponential(
    source: Source, types: Sequence[Type], parameters: Mapping[str, Any], masks: Sequence[Any]
) -> Dealt:
    """By segment of the circle, e^-(r - its start) if r lies in it and 0 if not: 8 bytes a value and segment."""
    width, segments, unit = parameters["width"], parameters["segments"], 2.0 ** parameters["dealt"]

    def terms(part: torch.Tensor) -> torch.Tensor:
        position = part * segments
        segment = position.floor()
        value = torch.exp((segment - position) * (width / segments)) * unit
        return torch.stack([torch.where(segment == h, value, 0.0) for h in range(segments)])

    return deal(source, types[0].shape, segments, terms)


def exponential_of(first: bool, dealt: Dealt, inputs: list[Words], parameters: Mapping[str, Any]) -> Running:
    """This party's share of e^x, low <= x < low + width · (1 - 1.5 / segments).

    If r lies in segment h then x - low = (c - start) - (r - start) on the circle, so e^x is e^(c - start + low) times what
    was dealt for h; 0 was dealt for all other segments, whatever factor stands before them. r - start is less than a segment
    long, so c - start has one reading; half a segment is left for rounding."""
    segments, bits = parameters["segments"], parameters["turn"]
    origin = round(-parameters["low"] / parameters["width"] * 2.0**ANGLE_BITS)
    c = yield from opened_angle(dealt, inputs[0], bits)
    total = torch.zeros_like(dealt.mask)
    full = 1 << ANGLE_BITS
    for h in range(segments):
        along = (c + origin - h * full // segments) & (full - 1)
        along = torch.where(along >= full - full // (2 * segments), along - full, along)
        total += exponential(along, parameters["width"], parameters["low"], parameters["public"]) * dealt.terms[h]
    return total
