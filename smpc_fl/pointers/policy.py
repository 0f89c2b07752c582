"""What every party checks of a secure aggregate: the researcher's session before anything is sent, each owner again.

`check_aggregate` looks at one job, `check_history` at a job beside those that an owner has taken part in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from smpc_fl.errors import BadInput, CohortTooSmall, IsolationRefused, ShapeMismatch, WeightOutOfRange
from smpc_fl.jobs import AggregateJob
from smpc_fl.pointers.lineage import Expression, Registered, dataset_of, decode_expression, describe, names

if TYPE_CHECKING:
    from smpc_fl.pointers.shapes import Spec

Weightings = Literal["one", "each-kind"]
"""How many weightings of one lineage an owner takes part in unasked: one, or one of each kind (by rows, equal, given)."""


def check_cohort(cohort: Sequence[str], k_min: int) -> None:
    """`CohortTooSmall` for fewer than `k_min` owners, `IsolationRefused` for an owner that is named twice."""
    twice = sorted({owner for owner in cohort if cohort.count(owner) > 1})
    if twice:
        raise IsolationRefused(f"{', '.join(twice)} would be counted twice: name every owner once")
    if len(cohort) < k_min:
        raise CohortTooSmall(f"an aggregate over {len(cohort)} owners is refused: at least {k_min} are needed")


def check_weights(weights: Sequence[float], owners: int) -> None:
    """Are these weights that isolate nobody: one for each owner, positive, finite, none over half of their sum?

    Raises `WeightOutOfRange` (count, NaN, infinity) or `IsolationRefused`."""
    if len(weights) != owners:
        raise WeightOutOfRange(f"{len(weights)} weights for {owners} owners: give each owner one")
    if not all(math.isfinite(weight) for weight in weights):
        raise WeightOutOfRange("a weight is NaN or infinite: weights are positive numbers")
    if min(weights) <= 0:
        raise IsolationRefused("a weight that is not positive leaves its owner out: leave the owner out openly instead")
    # Exact sums, so that [1, 1, 2], where the largest is just half, passes whatever the rounding of the weights.
    if 2 * max(weights) > math.fsum(weights) * (1 + 1e-12):
        raise IsolationRefused("the largest weight is more than half of their sum, which would show that owner's value")


def check_aggregate(job: AggregateJob, cohort: Sequence[str], *, leaves: Mapping[str, Spec], k_min: int) -> Expression:
    """The expression of `job`, if one owner, whose registered tensors are `leaves`, may compute it for this cohort.

    Raises `CohortTooSmall`, `IsolationRefused`, `WeightOutOfRange`, `ShapeMismatch`, `BadInput`, `PermissionDenied` or
    `MalformedMessage`; all of it follows from the job and from public metadata."""
    from smpc_fl.pointers.shapes import MAX_ELEMENTS, infer_expression  # torch: a node that is back speaks before that

    check_cohort(cohort, k_min)
    if list(cohort) != sorted(cohort):
        raise IsolationRefused("the owners of an aggregate are named in sorted order, so that weights are theirs")
    if job.weights is not None:
        if job.reduce == "sum":
            raise BadInput("a sum takes no weights: use a mean")
        check_weights(job.weights, len(cohort))
    if not math.isfinite(job.bound):
        raise BadInput("the bound of an aggregate is a finite number")
    expression = decode_expression(job.expression)
    if not names(expression):
        raise BadInput("an aggregate of public numbers alone has nothing to protect: compute it yourself")
    result = infer_expression(expression, leaves)
    if result.rows is not None:
        raise ShapeMismatch(
            f"{describe(expression)} is {result}, and owners have different rows: reduce over them first, as p.mean(0)"
        )
    if list(result.shape) != job.shape:
        raise ShapeMismatch(f"{describe(expression)} is {result} here, not of shape {job.shape}: owners must agree")
    if not 0 < math.prod(job.shape) <= MAX_ELEMENTS:
        raise ShapeMismatch(f"an aggregate has 1 to {MAX_ELEMENTS} elements")
    if job.reduce == "mean" and job.weights is None:
        counted_group(expression, leaves)
    return expression


def check_weighting(expression: Expression, leaves: Mapping[str, Spec]) -> None:
    """Raises `ShapeMismatch` unless the value is one number, whatever the rows; and as `check_aggregate`."""
    from smpc_fl.pointers.shapes import infer_expression

    result = infer_expression(expression, leaves)
    if result.rows is not None or math.prod(result.shape) != 1:
        raise ShapeMismatch(f"{describe(expression)} is {result}, and a weight is one number: reduce first, as p.sum()")


def counted_group(expression: Expression, leaves: Mapping[str, Spec]) -> int | str:
    """The rows that weigh an owner: a private group of tensors, or a published number; `BadInput` for none or several."""
    specs = [leaves[node.name] for node in expression.nodes if isinstance(node, Registered)]
    groups = {spec.shape[0] for spec in specs if spec.shape}
    if len(groups) != 1:
        raise BadInput(
            f"{describe(expression)} does not come from one table of rows: give weights=, or take tensors that "
            "belong together"
        )
    return groups.pop()


def weighting(job: AggregateJob) -> str:
    """The kind of weights: "given" by the researcher, by "rows", or "equal" (a sum)."""
    if job.weights is not None:
        return "given"
    return "rows" if job.reduce == "mean" else "equal"


def check_history(
    job: AggregateJob,
    cohort: Sequence[str],
    past: Iterable[tuple[AggregateJob, Sequence[str]]],
    *,
    k_min: int,
    weightings: Weightings = "each-kind",
) -> None:
    """May an owner take part in `job` after `past` (job, cohort) pairs, without asking its people?

    The same job over the same cohort again is one release and passes. `IsolationRefused` for what could be subtracted
    or searched: other weights of the researcher's over a data set, cohorts over a data set that differ by fewer than
    k_min owners, another bound or scale for a lineage, and, with `weightings="one"`, another kind of weighting of it."""
    datasets = _datasets(job)
    for before, owners in past:
        together = datasets & _datasets(before)
        if not together:
            continue
        what = ", ".join(repr(name) for name in sorted(together)) if together != {""} else "these tensors"
        ask = "the owners would have to approve it explicitly"
        new, gone = len(set(cohort) - set(owners)), len(set(owners) - set(cohort))
        if 0 < new < k_min or 0 < gone < k_min:
            raise IsolationRefused(
                f"an aggregate over {what} was released for owners that differ from these by fewer than {k_min}: the "
                f"difference would isolate them; take the same owners again, or {ask}"
            )
        kind = weighting(job)
        if kind == weighting(before) == "given" and (job.weights != before.weights or list(cohort) != list(owners)):
            raise IsolationRefused(
                f"{what} took part with other weights before: several weightings can be solved for one owner's "
                f"value; use the same weights, or {ask}"
            )
        if job.expression != before.expression:
            continue
        if kind == weighting(before):
            if any(getattr(job, name) != getattr(before, name) for name in ("bound", "norm", "max_samples", "shape")):
                raise IsolationRefused(
                    f"this computation was aggregated with another bound or max_samples before: a search over bounds "
                    f"would find single values; use bound={before.bound}, max_samples={before.max_samples}, or {ask}"
                )
        elif weightings == "one":
            raise IsolationRefused(f"this computation was aggregated with {weighting(before)} weights before: {ask}")


def _datasets(job: AggregateJob) -> set[str]:
    return {dataset_of(name) for name in names(decode_expression(job.expression))}
