"""What any m - 1 aggregators hold of a report does not tell an all-zero update from the largest one: a classifier that learns
on some reports does no better than chance on 10^4 others. `scripts/secrecy` asks the same with 10^5 and stronger learners."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sharings import Draw, Weakness, balanced, bits, coalitions, linear, p_value, samples, weaknesses

LEARN, HELD_OUT = 500, 10_000


def p_values(
    aggregators: int, held_out: int, weak: Weakness | None = None, draw: Callable[[int], Draw] = Draw
) -> dict[tuple[str, ...], float]:
    """Of each coalition."""
    labels = balanced(LEARN + held_out, seed=aggregators)
    found = {}
    for coalition, seen in samples(labels, aggregators, draw(aggregators), weak).items():
        weights = linear(bits(seen[:LEARN]), labels[:LEARN])
        found[coalition] = p_value(bits(seen[LEARN:]) @ weights, labels[LEARN:])
    return found


@pytest.mark.parametrize(("aggregators", "held_out"), [(2, HELD_OUT), (3, 500)])
def test_no_coalition_can_tell(aggregators: int, held_out: int) -> None:
    found = p_values(aggregators, held_out)
    assert list(found) == coalitions(aggregators)
    assert min(found.values()) > 1e-3, found


@pytest.mark.parametrize(("weak", "draw"), [each[1:] for each in weaknesses()], ids=[each[0] for each in weaknesses()])
def test_a_weak_share_is_told(weak: Weakness | None, draw: Callable[[int], Draw]) -> None:
    assert p_values(2, 500, weak, draw)["aggregator-0",] < 1e-6
