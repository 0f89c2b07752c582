"""The simulation finds each of the faults that are planted in the product, within a thousand seeds."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant
from toy_crypto import toy_cryptography

SEEDS = range(1000)


def test_there_are_enough_of_them() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_found(mutant: Mutant) -> None:
    with toy_cryptography():
        assert mutant.caught(SEEDS) is not None, f"nobody saw that {mutant.breaks}"
