"""Bulk: packed vectors, sealed streams in pieces of any size, small boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import mutations
import numpy as np
from engine import Target, Wrong

from smpc_fl.errors import BadInput, DecryptionFailed, MalformedMessage
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.identity import PublicIdentity
from smpc_fl.protocols import vectors
from smpc_fl.protocols.envelopes import Channel, check_key
from smpc_fl.ring import BLOCK, ring
from smpc_fl.sealing import KeyPair, Stream, StreamOpener
from smpc_fl.secret import Secret

KEY, HASH = bytes(range(32)), bytes(range(1, 33))


@dataclass(frozen=True)
class Packed:
    bits: int
    n: int
    data: bytes


def _make_packed(rng: Random) -> Packed:
    bits = rng.choice((8, 9, 12, 16, 23, 31, 32, 33, 40, 48, 63, 64, rng.randint(8, 64)))
    n = rng.choice(
        (0, 1, 7, 8, 9, 63, 64, 100, BLOCK, BLOCK + 1, BLOCK + 9) if rng.random() < 0.1 else (0, 1, 2, 5, 8, 9, 65)
    )
    size = ring(bits).packed_size(n) + (rng.choice((-1, 1, 8)) if rng.random() < 0.1 else 0)
    data = bytearray(rng.randbytes(max(size, 0)))
    if rng.random() < 0.6 and data:
        words = np.frombuffer(rng.randbytes(n * ring(bits).itemsize), ring(bits).dtype)
        packed = memoryview(bytearray(ring(bits).packed_size(n)))
        ring(bits).pack_into(words, packed)
        data[: len(packed)] = packed[: len(data)]
    return Packed(bits, n, bytes(data))


def take_packed(given: Packed) -> None:
    of = ring(given.bits)
    words = np.full(given.n, -1 % (1 << 8 * of.itemsize), of.dtype)
    of.unpack_into(given.data, words)
    if given.n and int(words.max()) >> given.bits:
        raise Wrong("an element is beyond the ring")
    again = memoryview(bytearray(of.packed_size(given.n)))
    of.pack_into(words, again)
    if bytes(again) != given.data:
        raise Wrong("a packed vector has two spellings")
    FixedPoint(of, 20).decode(words)


@dataclass(frozen=True)
class Pieces:
    """What arrives of a vector ring[n]: `honest` if it is all of it, unchanged and in order."""

    bits: int
    n: int
    pieces: tuple[bytes, ...]
    honest: bool


@cache
def _sealed(bits: int, n: int) -> tuple[bytes, bytes, bytes]:
    """A sealed vector, its tags and its words."""
    of = ring(bits)
    words = np.random.default_rng(n).integers(0, 1 << min(bits, 62), n).astype(of.dtype)
    sealer = vectors.VectorSealer(vectors.stream(KEY, HASH, of, n), of)
    step = vectors.chunk_elements(of)
    for start in range(0, max(n, 1), step):
        sealer(words[start : start + step])
    return bytes(sealer.sealed), bytes(sealer.tags), words.tobytes()


def _make_pieces(rng: Random) -> Pieces:
    bits = rng.choice((8, 23, 32, 64))
    n = rng.choice((1, 4, 100)) if rng.random() < 0.9 else rng.choice((65_536, 65_537, 140_000))
    sealed, _, _ = _sealed(bits, n)
    data, other = sealed, _sealed(bits, 4)[0]
    draw = rng.random()
    if draw < 0.5:
        data = mutations.mutate_bytes(rng, sealed, [sealed, other])
    elif draw < 0.6:
        data = other
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 2, 5))))
    pieces = [data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True)]
    if rng.random() < 0.2:
        rng.shuffle(pieces)
    if rng.random() < 0.1:
        pieces.append(b"")
    return Pieces(bits, n, tuple(pieces), b"".join(pieces) == sealed)


def take_pieces(given: Pieces) -> None:
    of = ring(given.bits)
    opener = vectors.VectorOpener(vectors.stream(KEY, HASH, of, given.n), of, np.zeros(given.n, of.dtype))
    for number, piece in enumerate(given.pieces):
        try:
            opener(piece)
        except DecryptionFailed:
            if given.honest:
                raise Wrong("an honest vector does not open") from None
            _stays_refused(opener, given.pieces[number:])
            raise
    tags = opener.finish()
    _, true, words = _sealed(given.bits, given.n)
    if not given.honest or tags != true or opener.words.tobytes() != words:
        raise Wrong("a changed vector opens")


def _stays_refused(opener: vectors.VectorOpener, pieces: tuple[bytes, ...]) -> None:
    """One that has failed once never ends well, whatever else comes."""
    try:
        for piece in pieces:
            opener(piece)
        opener.finish()
    except DecryptionFailed:
        return
    raise Wrong("a stream that did not open went on")


@dataclass(frozen=True)
class Shaped:
    length: int
    chunk: int
    data: bytes


def _make_stream(rng: Random) -> Shaped:
    length, chunk = rng.choice((-1, 0, 1, 5, 16, 17, 64)), rng.choice((-1, 0, 1, 4, 16, 100))
    return Shaped(length, chunk, rng.randbytes(rng.choice((0, 1, 16, 17, 33, 80))))


def take_stream(given: Shaped) -> None:
    opener = StreamOpener(Stream(KEY, HASH, given.length, given.chunk))
    for _ in opener.feed(given.data):
        raise Wrong("noise opens")
    opener.finish()
    raise Wrong("noise is a whole stream")


def _make_box(rng: Random) -> tuple[bytes, bytes]:
    own = _channel(KeyPair.from_private(Secret(KEY)).public)
    boxes = [own.seal_seed(bytes(32), bytes(32)), own.seal_blinder(bytes(32)), b""]
    ephemeral = mutations.mutate_bytes(rng, HASH, [bytes(32), KEY])[:40] if rng.random() < 0.5 else rng.choice(LOW)
    return ephemeral, mutations.mutate_bytes(rng, rng.choice(boxes), boxes)


LOW = (
    bytes(32),
    b"\1" + bytes(31),
    b"\xff" * 32,
    bytes(31) + b"\x80",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"",
    bytes(31),
    bytes(33),
)


def _channel(public: bytes) -> Channel:
    me = PublicIdentity(HASH)
    return Channel(KeyPair.from_private(Secret(KEY)), public, me, me, HASH, HASH)


def take_box(given: tuple[bytes, bytes]) -> None:
    """Both ways of reading one; and nothing is derived with a key that everybody knows."""
    ephemeral, sealed = given
    failures: list[Exception] = []
    opens: list[Any] = [_channel(ephemeral).open_seed, _channel(ephemeral).open_blinder]
    for open_ in opens:
        try:
            open_(sealed)
        except (DecryptionFailed, MalformedMessage) as error:
            failures.append(error)
        else:
            raise Wrong("a changed box opens")
    if len(ephemeral) == 32:
        check_key(ephemeral, "somebody")
    raise failures[0]


def targets() -> list[Target]:
    return [
        Target("packed", _make_packed, take_packed, (MalformedMessage,)),
        Target("vector", _make_pieces, take_pieces, (DecryptionFailed, MalformedMessage), 0.5),
        Target("stream", _make_stream, take_stream, (DecryptionFailed, BadInput), 0.5),
        Target("box", _make_box, take_box, (DecryptionFailed, MalformedMessage), 0.5),
    ]
