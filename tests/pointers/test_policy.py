from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    IsolationRefused,
    MalformedMessage,
    PermissionDenied,
    ShapeMismatch,
    SmpcError,
    WeightOutOfRange,
)
from smpc_fl.jobs import AggregateJob
from smpc_fl.pointers.lineage import Expression, Ref, Span, apply, encode_expression, literal, registered
from smpc_fl.pointers.policy import check_aggregate, check_history, check_weighting, counted_group, weighting
from smpc_fl.pointers.shapes import Spec

X, Y, Z = registered("x"), registered("y"), registered("other/z")
MEAN = apply("mean", [Ref(0), 0], [X])
LEAVES = {
    "x": Spec(("data", 4), "float32"),
    "y": Spec(("data",), "int64"),
    "other/z": Spec(("other", 4), "float32"),
    "open": Spec((9, 4), "float32"),
    "scale": Spec((), "float32"),
}
OWNERS = ["alice", "bob", "carol"]


def job(expression: Expression = MEAN, **changes: Any) -> AggregateJob:
    fields: dict[str, Any] = {"reduce": "mean", "shape": [4], "bound": 8.0} | changes
    return AggregateJob(expression=encode_expression(expression), **fields)


def check(job: AggregateJob, cohort: Sequence[str] = OWNERS) -> Expression:
    return check_aggregate(job, cohort, leaves=LEAVES, k_min=3)


def test_what_passes() -> None:
    assert check(job()) == MEAN
    check(job(weights=[0.5, 0.5, 1.0]))
    check(job(reduce="sum"))
    check(job(apply("add", [Ref(0), Ref(1)], [MEAN, apply("mean", [Ref(0), 0], [Z])]), weights=[1.0, 1.0, 1.0]))
    check(job(apply("mul", [Ref(0), Ref(1)], [MEAN, registered("scale")])))


ONE = literal("float32", (4,), bytes(16))


@pytest.mark.parametrize(
    ("bad", "cohort", "kind", "text"),
    [
        (job(), ["alice", "bob"], CohortTooSmall, "at least 3"),
        (job(), ["alice", "alice", "bob", "carol"], IsolationRefused, "twice"),
        (job(), ["carol", "bob", "alice"], IsolationRefused, "sorted"),
        (job(reduce="sum", weights=[1.0, 1.0, 1.0]), OWNERS, BadInput, "no weights"),
        (job(weights=[1.0, 0.1, 0.1]), OWNERS, IsolationRefused, "half"),
        (job(weights=[1.0, 0.0, 0.0]), OWNERS, IsolationRefused, "not positive"),
        (job(weights=[1.0, 1.0]), OWNERS, WeightOutOfRange, "2 weights"),
        (job(bound=float("inf")), OWNERS, BadInput, "finite"),
        (job(ONE), OWNERS, BadInput, "public numbers"),
        (job(X), OWNERS, ShapeMismatch, "reduce over them first"),
        (job(shape=[5]), OWNERS, ShapeMismatch, "owners must agree"),
        (job(apply("index", [Ref(0), (Span(2, 2),)], [MEAN]), shape=[0]), OWNERS, ShapeMismatch, "1 to"),
        (job(registered("secret")), OWNERS, BadInput, "'secret'"),
        (job(apply("nonzero", [Ref(0)], [X])), OWNERS, PermissionDenied, "nonzero"),
        (job(apply("add", [Ref(0), Ref(1)], [MEAN, apply("mean", [Ref(0), 0], [Z])])), OWNERS, BadInput, "one table"),
        (job(registered("scale"), shape=[]), OWNERS, BadInput, "one table"),
        (msgspec.structs.replace(job(), expression=b"\x00"), OWNERS, MalformedMessage, "decode"),
    ],
)
def test_what_does_not(bad: AggregateJob, cohort: list[str], kind: type[SmpcError], text: str) -> None:
    with pytest.raises(kind, match=text):
        check(bad, cohort)


def test_the_table_that_counts() -> None:
    both = apply("add", [Ref(0), Ref(1)], [X, apply("unsqueeze", [Ref(0), 1], [Y])])
    assert counted_group(both, LEAVES) == "data"
    assert counted_group(registered("open"), LEAVES) == 9


def history(
    now: AggregateJob, *past: tuple[AggregateJob, list[str]], cohort: list[str] = OWNERS, **policy: Any
) -> None:
    check_history(now, cohort, past, k_min=3, **policy)


VARIANT = apply("add", [Ref(0), 0], [MEAN])
MANY = [f"o{i}" for i in range(9)]


def test_the_same_again_is_one_release() -> None:
    history(job())
    history(job(), (job(), OWNERS))
    history(job(weights=[1.0, 1.0, 1.0]), (job(weights=[1.0, 1.0, 1.0]), OWNERS))
    history(job(apply("var", [Ref(0), 0], [X]), bound=9.0), (job(), OWNERS))


def test_other_data_has_its_own_history() -> None:
    elsewhere = job(apply("mean", [Ref(0), 0], [Z]), weights=[1.0, 1.0, 0.5])
    history(job(weights=[1.0, 1.0, 1.0]), (elsewhere, ["alice", "bob", "dave"]))


@pytest.mark.parametrize("expression", [MEAN, VARIANT])
def test_several_weight_vectors(expression: Expression) -> None:
    before = (job(weights=[1.0, 1.0, 0.5]), OWNERS)
    with pytest.raises(IsolationRefused, match=r"other weights before.*approve it explicitly"):
        history(job(expression, weights=[1.0, 0.5, 1.0]), before)
    z = apply("mean", [Ref(0), 0], [Z])
    with pytest.raises(IsolationRefused, match="'other'"):
        history(job(z, weights=[1.0, 1.0, 1.0]), (job(z, weights=[1.0, 1.0, 0.5]), OWNERS))
    with pytest.raises(IsolationRefused, match="other weights"):
        history(job(weights=[1.0] * 9), (job(weights=[1.0] * 6), MANY[:6]), cohort=MANY)


@pytest.mark.parametrize("expression", [MEAN, VARIANT])
def test_cohorts_that_differ_by_few(expression: Expression) -> None:
    for cohort in ([*OWNERS, "dave"], OWNERS[:2], ["alice", "bob", "dave"]):
        with pytest.raises(IsolationRefused, match="differ from these by fewer than 3"):
            history(job(expression), (job(), OWNERS), cohort=cohort)
    history(job(expression), (job(), MANY[:6]), cohort=MANY)
    history(job(expression), (job(), MANY[:3]), cohort=MANY[3:])


def test_a_search_over_bounds() -> None:
    with pytest.raises(IsolationRefused, match=r"search over bounds.*bound=8\.0"):
        history(job(bound=4.0), (job(), OWNERS))
    with pytest.raises(IsolationRefused, match="search over bounds"):
        history(job(norm=True), (job(), OWNERS))
    with pytest.raises(IsolationRefused, match="max_samples"):
        history(job(max_samples=77), (job(), OWNERS))


def test_weightings_of_each_kind_or_one() -> None:
    kinds = [job(), job(reduce="sum"), job(weights=[1.0, 1.0, 1.0])]
    assert [weighting(each) for each in kinds] == ["rows", "equal", "given"]
    for now in kinds:
        for before in kinds:
            history(now, (before, OWNERS))
            if now is not before:
                with pytest.raises(IsolationRefused, match="weights before"):
                    history(now, (before, OWNERS), weightings="one")


def test_a_weighting_is_one_number() -> None:
    check_weighting(apply("sum", [Ref(0), 0], [Y]), LEAVES)
    for several in (X, MEAN):
        with pytest.raises(ShapeMismatch, match="a weight is one number: reduce first"):
            check_weighting(several, LEAVES)
