"""One hash for everything: BLAKE2b (RFC 7693) with a label for each use, and parts that cannot run into each other.

`digest` names things (jobs, manifests, models, commitments), `derive_key` makes keys out of secrets (BLAKE2b's keyed
mode, which is a PRF and so may stand where HKDF would).

The label goes into `person`, 16 bytes of BLAKE2b's parameter block (Aumasson et al., "BLAKE2", ACNS 2013): a label of at
most 16 bytes is put there as it is, a longer one as its own 16-byte hash. Every part is preceded by its length (8 bytes,
little-endian), so ("ab", "c") and ("a", "bc") differ, and so do ("a",) and ("a", "").
"""

from __future__ import annotations

import hashlib

from smpc_fl.errors import InternalError

KEY_SIZE = 32
"""Bytes of a derived key."""

Buffer = bytes | bytearray | memoryview
"""What can be hashed without a copy. A memoryview must be C-contiguous."""

_PERSON = 16


def digest(label: str, *parts: Buffer, size: int = 32) -> bytes:
    """`size` (1..64) bytes that name `parts` for the use `label`; collision-resistant from 32 bytes on."""
    hasher = hashlib.blake2b(digest_size=size, person=_person(label))
    _absorb(hasher, parts)
    return hasher.digest()


def derive_key(label: str, secret: Buffer, *context: Buffer) -> bytes:
    """A key of 32 bytes for the use `label` in `context`, out of `secret` (1..64 bytes of full entropy)."""
    key = bytes(secret)
    if not 1 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise InternalError(f"a key is derived from 1 to 64 secret bytes, not from {len(key)}")
    hasher = hashlib.blake2b(digest_size=KEY_SIZE, key=key, person=_person(label))
    _absorb(hasher, context)
    return hasher.digest()


def _absorb(hasher: hashlib.blake2b, parts: tuple[Buffer, ...]) -> None:
    for part in parts:
        view = memoryview(part)
        hasher.update(view.nbytes.to_bytes(8, "little"))
        hasher.update(view)


def _person(label: str) -> bytes:
    # `person` is padded with zeros: a label with a zero byte could be mistaken for a shorter one.
    name = label.encode()
    if not name or 0 in name:
        raise InternalError("a hash label is not empty and holds no zero byte")
    if len(name) <= _PERSON:
        return name
    return hashlib.blake2b(name, digest_size=_PERSON, person=b"smpc-fl label").digest()
