"""Bytes that are nearly right: valid ones with bits, lengths, numbers, texts and whole subtrees exchanged.

Everything is drawn from one `random.Random`, so that a case is its seed. Messages are changed as trees: msgpack is read
into Python values (and byte strings that hold msgpack again, as envelopes do, too), changed at a random place, and written
by an encoder of our own that can do what a strict one cannot: keys twice, numbers in a longer spelling, broken texts.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

EDGES = sorted(
    {
        sign * (1 << bits) + by
        for bits in (0, 3, 7, 8, 15, 16, 31, 32, 40, 63, 64)
        for by in (-1, 0, 1)
        for sign in (1, -1)
    }
)
FLOATS = (math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -5e-324, 2.2e-308, 1e308, -1e308, 1e-300, 0.1, 1.0, 2.0**53)
TEXTS = (
    "", "\0", "\n", "../x", "/etc/passwd", "a" * 64, "a" * 65, "a" * 257, "a" * 5000, "é", "\u202e", "\U0001f600", "$x", "%n",
    "@p",
    ":float32", "=same", "%", "nan", "-0", "1e999", "0x10", "1_000", "owner", "type", "\x7f", "NaN", "__class__", "{0}", "%s",
)  # fmt: skip
BLOBS = (
    b"",
    b"\0",
    bytes(16),
    bytes(31),
    bytes(32),
    bytes(33),
    bytes(64),
    b"\xff" * 32,
    b"\1" + bytes(31),
    bytes(1 << 16),
)


class Pairs(list[tuple[Any, Any]]):
    """A map as it stands on the wire: keys may come twice, in any order, and be anything."""


class Raw(bytes):
    """Bytes that are written as they are, without a header."""


def edge_int(rng: Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.8 else rng.getrandbits(64)


def edge_float(rng: Random) -> float:
    if rng.random() < 0.7:
        return rng.choice(FLOATS)
    return float(struct.unpack("<d", rng.randbytes(8))[0])


def odd_value(rng: Random, depth: int = 0) -> Any:
    """Any value, mostly one that is likely to trip a reader."""
    match rng.randrange(12 if depth < 3 else 8):
        case 0 | 1:
            return edge_int(rng)
        case 2:
            return edge_float(rng)
        case 3 | 4:
            return rng.choice(TEXTS)
        case 5:
            return rng.choice(BLOBS)
        case 6:
            return rng.choice((None, True, False))
        case 7:
            return rng.randbytes(rng.randrange(70))
        case 8:
            return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 9:
            return Pairs((odd_value(rng, depth + 1), odd_value(rng, depth + 1)) for _ in range(rng.randrange(3)))
        case 10:
            return nested(rng.choice((10, 100, 1100, 20_000)), rng.random() < 0.5)
        case _:
            return [rng.choice((0, None, "", b""))] * rng.choice((2, 16, 17, 65, 300, 5000))


def nested(depth: int, maps: bool) -> Raw:
    """A value inside `depth` others, in msgpack."""
    return Raw((b"\x81\xa1a" if maps else b"\x91") * depth + b"\xc0")


# --- bytes --------------------------------------------------------------------------------------------------------


def mutate_bytes(rng: Random, data: bytes, donors: Sequence[bytes]) -> bytes:
    """One to four changes, without knowing what the bytes mean."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        size = min(rng.choice((1, 1, 2, 4, 8, 32, 300)), len(out) - at)
        match rng.randrange(9):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(out):
                out[at] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC6, 0xD9, 0xDD, 0xDF, 0xFF, rng.randrange(256))
                )
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))
            case 5:
                out[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))
            case 6:
                width = rng.choice((1, 2, 4, 8))
                number = edge_int(rng) & ((1 << 8 * width) - 1)
                out[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
            case 7:
                donor = rng.choice(donors)
                start = rng.randrange(len(donor) + 1)
                out[at : at + size] = donor[start : start + rng.choice((1, 8, 64, 4096))]
            case _:
                del out[at:]
                if rng.random() < 0.3:
                    out += rng.randbytes(rng.randrange(20))
    return bytes(out)


# --- trees --------------------------------------------------------------------------------------------------------


def mutate_tree(rng: Random, tree: Any, donors: Sequence[Any]) -> Any:
    """The tree with something else at one of its places."""
    places = list(_places(tree))
    path = rng.choice(places)
    donor = rng.choice(donors)
    other = _at(donor, rng.choice(list(_places(donor))))

    def change(value: Any) -> Any:
        match rng.randrange(8):
            case 0 | 1:
                return near(rng, value)
            case 2 | 3:
                return odd_value(rng)
            case 4:
                return other
            case 5 if isinstance(value, list) and value:
                return _shuffled(rng, value)
            case 6 if isinstance(value, dict):
                pairs = Pairs(value.items())
                pairs.insert(rng.randrange(len(pairs) + 1), (rng.choice((*value, "extra", 0)), odd_value(rng)))
                return pairs
            case 7 if isinstance(value, dict) and value:
                gone = rng.choice(list(value))
                return {key: item for key, item in value.items() if key != gone}
            case _:
                return near(rng, value)

    return _replaced(tree, path, change)


def near(rng: Random, value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((value + 1, value - 1, -value, edge_int(rng)))
        case float():
            return rng.choice((-value, value * 2, edge_float(rng), int(value) if math.isfinite(value) else 0))
        case str():
            return rng.choice((value + "x", value[:-1], value.upper(), value * 2, rng.choice(TEXTS)))
        case bytes():
            if not value:
                return b"\0"
            at = rng.randrange(len(value))
            flipped = value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
            return rng.choice((flipped, value[:-1], value + b"\0", bytes(len(value)), rng.randbytes(len(value))))
        case list():
            return _shuffled(rng, value) if value else [odd_value(rng)]
        case dict():
            return {**value, rng.choice(TEXTS): odd_value(rng)}
        case _:
            return odd_value(rng)


def _shuffled(rng: Random, items: list[Any]) -> list[Any]:
    match rng.randrange(5):
        case 0:
            return items[::-1]
        case 1:
            return [*items, rng.choice(items)]
        case 2:
            return items[:-1]
        case 3:
            return items * rng.choice((2, 40))
        case _:
            return rng.sample(items, len(items))


Path = tuple[Any, ...]


def _places(tree: Any, path: Path = ()) -> list[Path]:
    """Every place of a tree, also those inside byte strings that are trees themselves."""
    found = [path]
    match tree:
        case dict():
            for key, item in tree.items():
                found += _places(item, (*path, key))
        case list() if not isinstance(tree, Pairs):
            for index, item in enumerate(tree[:40]):
                found += _places(item, (*path, index))
        case bytes() if len(tree) > 40:
            inner = unpack(tree)
            if isinstance(inner, dict | list):
                found += _places(inner, (*path, bytes))
    return found


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = unpack(tree) if step is bytes else tree[step]
    return tree


def _replaced(tree: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(tree)
    step, rest = path[0], path[1:]
    if step is bytes:
        return pack(_replaced(unpack(tree), rest, change))
    if isinstance(tree, dict):
        return {key: _replaced(item, rest, change) if key == step else item for key, item in tree.items()}
    return [_replaced(item, rest, change) if index == step else item for index, item in enumerate(tree)]


# --- msgpack ------------------------------------------------------------------------------------------------------


def unpack(data: bytes) -> Any:
    """The tree in some bytes, or None."""
    try:
        return msgspec.msgpack.decode(data)
    except Exception:
        return None


def pack(value: Any, rng: Random | None = None) -> bytes:
    """msgpack of a tree; with `rng`, some lengths and numbers are spelt longer than they need be."""
    long = rng is not None and rng.random() < 0.1
    match value:
        case Raw():
            return bytes(value)
        case None | bool():
            return {None: b"\xc0", True: b"\xc3", False: b"\xc2"}[value]
        case int():
            if long and 0 <= value < 1 << 32:
                return b"\xcf" + value.to_bytes(8, "big")
            if not -(1 << 63) <= value < 1 << 64:
                return b"\xcf" + (value & (1 << 64) - 1).to_bytes(8, "big")  # what a wider number would be cut to
            return bytes(msgspec.msgpack.encode(value))
        case float():
            return (
                b"\xca" + struct.pack(">f", value)
                if long and not abs(value) > 3e38
                else b"\xcb" + struct.pack(">d", value)
            )
        case str():
            text = value.encode("utf-8", "surrogatepass")
            if rng is not None and rng.random() < 0.02:
                text = text[:-1] + rng.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"))
            return _head(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB), long) + text
        case bytes():
            return _head(len(value), None, 0, (0xC4, 0xC5, 0xC6), long) + value
        case Pairs() | dict():
            items = value.items() if isinstance(value, dict) else value
            body = b"".join(pack(key, rng) + pack(item, rng) for key, item in items)
            return _head(len(value), 0x80, 16, (None, 0xDE, 0xDF), long) + body
        case _:
            return _head(len(value), 0x90, 16, (None, 0xDC, 0xDD), long) + b"".join(pack(item, rng) for item in value)


def _head(size: int, small: int | None, most: int, codes: tuple[int | None, int, int], long: bool) -> bytes:
    if small is not None and size < most and not long:
        return bytes([small | size])
    for width, code in zip((1, 2, 4), codes, strict=True):
        if code is not None and size < 1 << 8 * width and not (long and width < 4):
            return bytes([code]) + size.to_bytes(width, "big")
    raise AssertionError(size)


# --- JSON ---------------------------------------------------------------------------------------------------------


def pack_json(value: Any) -> bytes:
    """JSON of a tree, compact; what JSON has no word for becomes a text."""
    match value:
        case Raw():
            return b"[" * 1000 + b"]" * 1000
        case bytes():
            return json.dumps(value.decode("latin1")).encode()
        case float() if not math.isfinite(value):
            return json.dumps(value).encode()  # NaN, Infinity: no JSON
        case Pairs() | dict():
            items = value.items() if isinstance(value, dict) else value
            return b"{" + b",".join(_json_key(key) + b":" + pack_json(item) for key, item in items) + b"}"
        case list() | tuple():
            return b"[" + b",".join(map(pack_json, value)) + b"]"
        case _:
            return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _json_key(key: Any) -> bytes:
    return pack_json(key if isinstance(key, str) else repr(key)[:40])
