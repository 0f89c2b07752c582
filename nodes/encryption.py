"""The owners' CKKS key, and encryption under it: the one module that knows TenSEAL (extra `ckks`).

TenSEAL makes key and ciphertexts with randomness of the operating system's. Its parsers (protobuf, SEAL) read nothing that
came from a peer: ciphertexts travel as residues (`encryption.py`), which are taken out of what TenSEAL has written here, and
put back in the same place for it to decrypt. That place is SEAL 4's: `Ciphertext::save_members`, a header of 97 bytes, which
is the same for all ciphertexts of our parameters, then the residues as 64-bit words; tried out whenever a key is loaded.

The key is one file that the owners have in common: secret and public half, nothing else. Whoever has it can read every
owner's vector, so it never comes near the aggregator or the coordinator.
"""

from __future__ import annotations

import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from smpc_fl.encryption import DEGREE, MODULI, NOISE, RESIDUES, SCALE_BITS, SLOTS, WORDS, Floats
from smpc_fl.errors import BadInput, ConfigInvalid, InternalError
from smpc_fl.hashing import digest
from smpc_fl.nodes.home.files import read, write_new
from smpc_fl.ring import RingArray

LONGEST_KEY = 1 << 20
"""Bytes of a key's file, at most: 185 KB, in fact."""
_HEAD = bytes.fromhex("5ea1100403000000")
"""SEAL's own header (`SEALHeader`): magic, 16 bytes long, version 4.3 of the format, no compression; then the length."""
_SEAL_HEADER = 16
_MEMBERS = 97


def _tenseal() -> Any:
    if find_spec("tenseal") is None or find_spec("zstandard") is None:
        raise BadInput("protection=\"ckks\" needs TenSEAL, which is not installed: pip install 'smpc-fl[ckks]'")
    import tenseal

    return tenseal


class CkksKey:
    """A `Cipher`. `data`: what `make` gives."""

    def __init__(self, data: bytes) -> None:
        """Raises `BadInput` for what is no such key, or where TenSEAL is missing."""
        self._tenseal = _tenseal()
        self.id = digest("smpc-fl/1 ckks key", data)
        try:
            self._context = self._tenseal.context_from(data)
            degree = self._context.seal_context().data.first_context_data().parms().poly_modulus_degree()
            whole = self._context.is_private() and self._context.has_public_key()
        except (ValueError, RuntimeError):
            raise BadInput("not a CKKS key of `smpc-fl ckks-keygen`") from None
        if degree != DEGREE or not whole or self._context.global_scale != 2.0**SCALE_BITS or not self._works():
            raise BadInput(
                "a CKKS key of other parameters, or without its secret half: `smpc-fl ckks-keygen` makes one"
            )

    def __repr__(self) -> str:
        return f"<CkksKey {self.id.hex()[:16]}>"

    @staticmethod
    def make() -> bytes:
        """A new key, as its file has it."""
        tenseal = _tenseal()
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULI))
        context.global_scale = 2.0**SCALE_BITS
        data: bytes = context.serialize(
            save_secret_key=True, save_public_key=True, save_galois_keys=False, save_relin_keys=False
        )
        return data

    def encrypt(self, values: Floats) -> RingArray:
        words = RESIDUES.zeros(WORDS * (values.size // SLOTS))
        for number in range(values.size // SLOTS):
            vector = self._tenseal.ckks_vector(self._context, values[number * SLOTS : (number + 1) * SLOTS])
            words[number * WORDS : (number + 1) * WORDS] = self._residues(vector.serialize())
        return words

    def decrypt(self, words: RingArray) -> Floats:
        values = np.empty(SLOTS * (words.size // WORDS), np.float64)
        for number in range(words.size // WORDS):
            part = words[number * WORDS : (number + 1) * WORDS]
            vector = self._tenseal.ckks_vector_from(self._context, self._vector(part.astype("<u8").tobytes()))
            values[number * SLOTS : (number + 1) * SLOTS] = vector.decrypt()
        return values

    def _works(self) -> bool:
        """A sum there and back, which shows the modulus, and where TenSEAL has its residues. Raises `InternalError`."""
        self._sizes, ciphertext, self._scale = _fields(
            self._tenseal.ckks_vector(self._context, [0.0] * SLOTS).serialize()
        )
        self._members = _decompressed(ciphertext)[:_MEMBERS]
        there = np.linspace(-4.0, 4.0, SLOTS)
        total = self.encrypt(there)
        RESIDUES.add_into(total, self.encrypt(there))
        try:
            off = self.decrypt(total) - 2 * there
        except (ValueError, RuntimeError):  # residues beyond another modulus
            return False
        return bool(np.max(np.abs(off)) < 2.0 ** (NOISE + 3 - SCALE_BITS))

    def _residues(self, serialized: bytes) -> RingArray:
        members = _decompressed(_fields(serialized)[1])
        if len(members) != _MEMBERS + 8 * WORDS or members[:_MEMBERS] != self._members:
            raise _other_layout()
        return np.frombuffer(members, "<u8", offset=_MEMBERS)

    def _vector(self, residues: bytes) -> bytes:
        """TenSEAL's message around one ciphertext, which is not compressed."""
        members = self._members + residues
        ciphertext = _HEAD + (_SEAL_HEADER + len(members)).to_bytes(8, "little") + members
        return self._sizes + b"\x12" + _varint(len(ciphertext)) + ciphertext + self._scale


def _other_layout() -> InternalError:
    return InternalError(
        "this TenSEAL lays its ciphertexts out in another way than 0.3.18: pip install 'smpc-fl[ckks]' installs that"
    )


def _fields(serialized: bytes) -> tuple[bytes, bytes, bytes]:
    """TenSEAL's `CKKSVectorProto` (tensors.proto), written here by it: the sizes, its one ciphertext, and the scale."""
    sizes = b"\x0a\x02" + _varint(SLOTS) + b"\x12"
    length = shift = 0
    at = len(sizes)
    for byte in serialized[at : at + 5]:
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    ciphertext, scale = serialized[at : at + length], serialized[at + length :]
    if not serialized.startswith(sizes) or len(ciphertext) != length or len(scale) != 9:
        raise _other_layout()
    return sizes[:-1], ciphertext, scale


def _decompressed(ciphertext: bytes) -> bytes:
    """What is behind SEAL's header, of our own ciphertext."""
    import zstandard

    if ciphertext[:5] != _HEAD[:5] or ciphertext[5] != 2:  # by zstd, as TenSEAL's wheels are built
        raise _other_layout()
    return zstandard.ZstdDecompressor().decompress(ciphertext[_SEAL_HEADER:], _MEMBERS + 8 * WORDS)


def _varint(number: int) -> bytes:
    """Protocol buffers' base-128 varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def make_key_file(path: Path) -> CkksKey:
    """A new key in `path` (mode 0600). Raises `ConfigInvalid` if the file exists."""
    data = CkksKey.make()
    write_new(path, data, mode=0o600)
    return CkksKey(data)


def load_key_file(path: Path) -> CkksKey:
    """The key in `path`. Raises `ConfigInvalid`, without a byte of the file, also when others than its user may read it."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: the CKKS key cannot be read: {error.strerror}. `smpc-fl ckks-keygen` makes one, for all owners"
        ) from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise ConfigInvalid(
            f"{path}: not a file that only its user can read: run `chmod 600 {path}`, and have the owners make a new key if "
            "somebody may have read it"
        )
    try:
        return CkksKey(read(path, "a CKKS key", "`smpc-fl ckks-keygen` makes one", limit=LONGEST_KEY))
    except BadInput as error:
        raise ConfigInvalid(f"{path}: {error.message}") from None
