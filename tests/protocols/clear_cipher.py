"""A `Cipher` that hides nothing: numbers lie in the open among the residues, with noise, and add up as ciphertexts do."""

from __future__ import annotations

import numpy as np

from smpc_fl.encryption import MODULUS, NOISE, RESIDUES, SCALE_BITS, SLOTS, WORDS, Floats
from smpc_fl.ring import RingArray


class ClearCipher:
    """`noise`: standard deviations of the real one's that each number is off by, at most."""

    def __init__(self, id: bytes = bytes(range(32)), noise: float = 1.0) -> None:
        self.id = id
        self._draws = np.random.default_rng(3)
        self._noise = noise

    def encrypt(self, values: Floats) -> RingArray:
        assert values.size % SLOTS == 0
        off = self._draws.uniform(-self._noise, self._noise, values.size) * 2.0**NOISE
        plain = np.rint(values * 2.0**SCALE_BITS + off).astype(np.int64) % MODULUS
        words = self._draws.integers(0, MODULUS, (values.size // SLOTS, WORDS), np.uint64)
        words[:, :SLOTS] = plain.reshape(-1, SLOTS)
        return words.reshape(-1).astype(RESIDUES.dtype)

    def decrypt(self, words: RingArray) -> Floats:
        plain = words.reshape(-1, WORDS)[:, :SLOTS].reshape(-1).astype(np.int64)
        signed: Floats = np.where(plain > MODULUS // 2, plain - MODULUS, plain) * 2.0**-SCALE_BITS
        return signed
