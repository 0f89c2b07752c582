"""Whether a record was in the training can be told of a model that learnt it by heart, and not of one with privacy for each."""

from __future__ import annotations

import numpy as np
import pytest

from bench import membership
from bench.membership import Target, auc, by_loss, by_ratio, target


def test_the_attacks_tell_what_is_to_be_told() -> None:
    draw = np.random.default_rng(1)
    member = draw.random((9, 400)) < 0.5
    own = draw.normal(size=400) * 3  # some records are easy, in the training or not: the loss alone confuses the two
    seen = [Target(own + 1.0 * m + 0.5 * draw.normal(size=400), m, "") for m in member]
    assert 0.5 < by_loss(seen[0]) < 0.65
    assert by_ratio(seen[0], seen[1:]) > 0.85
    assert seen[0].right(True) > seen[0].right(False)
    blind = [Target(own + 0.5 * draw.normal(size=400), m, "") for m in member]
    assert by_ratio(blind[0], blind[1:]) == pytest.approx(0.5, abs=0.09)
    assert auc(np.array([1.0, 2.0, 2.0, 0.0]), np.array([True, True, False, False])) == 0.625


@pytest.mark.slow
def test_privacy_for_records_hides_who_was_in_the_training() -> None:
    """The attack by the loss, on one model of each kind; and what is learnt beats the majority class."""
    table = membership.load()
    plain = target(table, 1, membership.PLAIN)
    assert by_loss(plain) >= 0.65
    hidden = target(table, 1, membership.private(len(table.y) // 2 // membership.SHOPS))
    assert 3.9 < float(hidden.privacy.split()[2]) <= 4.0
    assert by_loss(hidden) <= 0.55
    assert hidden.right(False) > max(table.y.mean(), 1 - table.y.mean())
