"""Randomness of local training that can be repeated: a stream for each (run seed, use, round, owner), by AES-256-CTR.

NumPy and torch generators differ between versions and share global state; these streams do neither.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smpc_fl.hashing import derive_key
from smpc_fl.prg import Prg
from smpc_fl.ring import RING64


def stream(seed: bytes, use: str, owner: str, round_number: int = 0) -> Prg:
    """The stream of one owner for one `use` in one round; `seed`: the job's 16 bytes."""
    key = derive_key("smpc-fl/1 learning", seed, use.encode(), owner.encode(), round_number.to_bytes(8, "little"))
    return Prg(key)


def permutation(numbers: Prg, n: int, number: int = 0) -> npt.NDArray[np.int64]:
    """int64[n], the `number`-th uniformly random order of 0 … n-1 in a stream: the order of n random 64-bit words.

    Two equal words, which would favour the smaller index, come once in 2^65 / n^2 permutations."""
    words = numbers.expand(RING64, n, offset=number * n)
    return np.argsort(words, kind="stable")
