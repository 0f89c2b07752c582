"""The harness of the examples: nothing is judged on what it has seen, every way learns, and the verdict can be bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

import smpc_fl as sf
from smpc_fl.nodes.demo.comparison import Score, Scores, Task, compare, simulated
from smpc_fl.nodes.demo.comparison_report import differences, verdict
from smpc_fl.nodes.demo.tables import Table, divide


def table(rows: int, classes: list[int], seed: int = 0) -> Table:
    """Three classes at the corners of a triangle; the third column is the row's own number."""
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, rows)
    x = np.eye(3, dtype=np.float32)[y] + rng.normal(0, 0.2, (rows, 3)).astype(np.float32)
    return Table(x, y)


TASK = Task("corners", lambda: nn.Linear(3, 3), [sf.LocalTraining(batch_size=8, lr=lr) for lr in (1e-6, 0.3)], rounds=4)


def test_every_row_is_in_one_part() -> None:
    rows = Table(np.arange(100), np.repeat([0, 1], [90, 10]))
    divided = divide({"a": rows, "b": rows}, 0)
    for part in divided.values():
        assert sorted([*part.train.x, *part.validation.x, *part.test.x]) == list(range(100))
        assert [len(part.test.y), int(part.test.y.sum())] == [20, 2]
        assert [len(part.validation.y), int(part.validation.y.sum())] == [16, 2]
    assert divided["a"].test.x.tolist() != divided["b"].test.x.tolist()
    assert divided["a"].test.x.tolist() == divide({"a": rows, "b": rows}, 0)["a"].test.x.tolist()
    assert divided["a"].test.x.tolist() != divide({"a": rows, "b": rows}, 1)["a"].test.x.tolist()
    assert len(divide({"a": Table(np.arange(2), np.array([0, 1]))}, 0)["a"].test.y) == 1


def test_owners_of_one_class_need_each_other() -> None:
    """Alone an owner names its own class always; together they know all three, as pooled training does."""
    tables = {f"owner-{kind}": table(60, [kind], kind) for kind in range(3)}
    divisions = divide(tables, 0)
    with simulated(TASK, [divisions]) as source:
        scores = compare(TASK, source, divisions, 0)
    assert scores.pooled.accuracy == scores.pooled.auc == 1
    assert scores.federated.accuracy > 0.9
    assert [score.accuracy for score in scores.alone.values()] == pytest.approx([1 / 3] * 3)
    assert {score.own for score in scores.alone.values()} == {1}
    assert scores.federated.own == pytest.approx(scores.federated.accuracy)
    assert scores.majority == pytest.approx(1 / 3)
    assert all(said.startswith("sgd 0.3,") for said in scores.chosen.values())


def test_all_are_judged_on_the_rows_that_are_given() -> None:
    divisions = divide({f"owner-{number}": table(30, [0, 1, 2], number) for number in range(3)}, 0)
    wrong = table(60, [0, 1, 2], 9)
    with simulated(TASK, [divisions]) as source:
        scores = compare(TASK, source, divisions, 0, test=Table(wrong.x, (wrong.y + 1) % 3))
    assert scores.pooled.accuracy < 0.1
    assert scores.pooled.own > 0.9


def test_a_verdict_can_be_bad() -> None:
    good = Scores(Score(0.9, 0.9, 0.9), Score(0.91, 0.91, 0.9), {"a": Score(0.8, 0.95, 1.0)}, 0.5, {}, 1.0, 1.0)
    assert differences([good], "pooled", "accuracy") == [pytest.approx(-0.01)]
    assert verdict([good, good])[0] == (
        "accuracy: within 2 points of pooled (-1.0); +10.0 points to the mean owner alone, above it in 2 of 2 splits"
    )
    bad = replace(good, pooled=Score(0.95, 0.95, 0.9))
    assert verdict([bad])[1] == (
        "AUC: NOT within 2 points of pooled (-5.0); -5.0 points to the mean owner alone, above it in 0 of 1 splits"
    )
