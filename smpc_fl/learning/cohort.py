"""Who takes part in a training round: a part of the owners, drawn from the job's public seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from smpc_fl.learning.shuffle import permutation, stream


def drawn(owners: Sequence[str], fraction: float, least: int, seed: bytes, round_number: int) -> list[str]:
    """ceil(fraction · n) of the n owners, at least `least`, sorted; each set of that size is as likely as another.

    The model is another one in every round, so which owners are in two rounds is nothing that sums could be subtracted
    for (`protocols/releases.py`); a round that is tried again asks the same owners."""
    size = min(len(owners), max(math.ceil(fraction * len(owners)), least))
    if size == len(owners):
        return sorted(owners)
    order = permutation(stream(seed, "cohort", "", round_number), len(owners))
    ordered = sorted(owners)
    return sorted(ordered[place] for place in order[:size])
