"""Toy signatures and key agreement for the simulation, which is about order and loss, not about mathematics: hashes in place of
curves, ten times as many rounds a second. `test_simulated_worlds` holds one against the other: same story, seed by seed.

A signature is a hash of public key and bytes, a shared point a hash of both public keys: whoever knows the public keys can
make them, and nobody in the simulation tries to. Everything else (commitments, sealing, streams) is the product's own.
What is pure and costs much is remembered. What is sealed under a key is watched: one key, one plaintext.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import nacl.bindings
import pytest

from smpc_fl import hashing, identity, roster, sealing
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import codec, envelopes
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.messages import Signed
from smpc_fl.roster import Membership, Role


class Draws:
    """A seeded `Entropy` that never repeats."""

    def __init__(self, seed: object) -> None:
        self._seed, self._number = repr(seed).encode(), 0

    def __call__(self, n: int, /) -> bytes:
        self._number += 1
        if n > 64:
            return hashlib.shake_256(b"%s/%d" % (self._seed, self._number)).digest(n)
        return hashlib.blake2b(b"%s/%d" % (self._seed, self._number), digest_size=n).digest()


class Sealed:
    """What was sealed under each key: `twice` counts the keys (with the number of the chunk) that sealed two plaintexts."""

    def __init__(self) -> None:
        self._seen: dict[tuple[bytes, int], bytes] = {}
        self.twice = 0

    def note(self, key: bytes, number: int, plain: Buffer) -> None:
        found = bytes(plain)
        if self._seen.setdefault((key, number), found) != found:
            self.twice += 1

    def clear(self) -> None:
        self._seen.clear()
        self.twice = 0


SEALED = Sealed()


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def _sign(self: identity.Identity, data: bytes) -> bytes:
    return _hash(b"signature", self.public.key, data) * 2


def _verify(self: identity.PublicIdentity, data: bytes, signature: bytes) -> bool:
    return signature == _hash(b"signature", self.key, data) * 2


def _public(private: bytes) -> bytes:
    return _hash(b"public", private)


def _shared(private: bytes, peer: bytes) -> bytes:
    return _hash(b"shared", *sorted((_public(private), peer)))


_MOST = 4096
_REMEMBERED: dict[tuple[int, bytes], Any] = {}
_strict = codec._strict


def _read_once(decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview, peer: str | None) -> Any:
    """A message has one spelling and is frozen: who reads it a second time gets the same."""
    key = (id(decoder.type), bytes(data))
    found = _REMEMBERED.get(key)
    if found is None:
        if len(_REMEMBERED) > _MOST:
            _REMEMBERED.clear()
        found = _REMEMBERED[key] = _strict(decoder, data, peer)
    return found


_VERIFIED: set[tuple[bytes, bytes, bytes, str]] = set()
_check_signature = codec.check_signature


def _check_once(signed: Signed, key: identity.PublicIdentity, *, federation: bytes) -> None:
    """A signature that held holds again: a message is read by many."""
    seen = (signed.signature, signed.body, key.key, signed.sender)
    if seen not in _VERIFIED:
        _check_signature(signed, key, federation=federation)
        if len(_VERIFIED) > _MOST:
            _VERIFIED.clear()
        _VERIFIED.add(seen)


_KEYS: dict[tuple[int, str, Role | None], identity.PublicIdentity] = {}
_key_of = Membership.key_of


def _key_once(self: Membership, id: str, role: Role | None = None) -> identity.PublicIdentity:
    """The simulation's rosters stay as they are, and live as long as the process."""
    found = _KEYS.get(key := (builtins.id(self), id, role))
    if found is None:
        found = _KEYS[key] = _key_of(self, id, role)
    return found


_model_digest = functools.lru_cache(64)(manifests.model_digest)


def _model_once(model: Buffer) -> bytes:
    return _model_digest(bytes(model))


_seal_small = sealing.seal_small
_init, _seal = sealing.Stream.__init__, sealing.Stream.seal


def _watched_small(key: bytes, plaintext: bytes) -> bytes:
    SEALED.note(key, -1, plaintext)
    return _seal_small(key, plaintext)


def _watched_init(self: Any, key: bytes, associated: bytes, length: int, chunk: int) -> None:
    _init(self, key, associated, length, chunk)
    self.watched = key


def _watched_seal(self: Any, number: int, plain: Buffer, sealed: memoryview) -> None:
    SEALED.note(self.watched, number, plain)
    _seal(self, number, plain, sealed)


@contextlib.contextmanager
def toy_cryptography(*, curves: bool = False) -> Iterator[None]:
    """Inside, the curves are hashes (unless `curves`), and what is sealed is watched."""
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr(identity.Identity, "sign", _sign)
            patch.setattr(identity.PublicIdentity, "verify", _verify)
            patch.setattr(nacl.bindings, "crypto_scalarmult_base", _public)
            patch.setattr(nacl.bindings, "crypto_scalarmult", _shared)
        patch.setattr(codec, "_strict", _read_once)
        patch.setattr(codec, "check_signature", _check_once)
        patch.setattr(hashing, "_person", functools.cache(hashing._person))
        patch.setattr(Membership, "key_of", _key_once)
        patch.setattr(roster, "federation_id", functools.cache(roster.federation_id))
        patch.setattr(manifests, "model_digest", _model_once)
        for name in ("stated_error", "check_capacity"):
            patch.setattr(manifests, name, functools.lru_cache(256)(getattr(manifests, name)))
        patch.setattr(envelopes, "seal_small", _watched_small)
        patch.setattr(sealing.Stream, "__init__", _watched_init)
        patch.setattr(sealing.Stream, "seal", _watched_seal)
        yield
    _REMEMBERED.clear()
    _VERIFIED.clear()
