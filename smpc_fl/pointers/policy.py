"""What every party checks of a secure aggregate: the researcher's session before anything is sent, each owner again.

This looks at one job. What several jobs over one data set would tell together, the owner's node remembers and refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from smpc_fl.errors import BadInput, CohortTooSmall, IsolationRefused, ShapeMismatch, WeightOutOfRange
from smpc_fl.jobs import AggregateJob
from smpc_fl.pointers.lineage import Expression, Registered, decode_expression, describe, names
from smpc_fl.pointers.shapes import MAX_ELEMENTS, Spec, infer_expression


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
        _check_one_table(expression, leaves)
    return expression


def _check_one_table(expression: Expression, leaves: Mapping[str, Spec]) -> None:
    """Is there one number of rows that weighs an owner? Tensors line up when they share a private group, or the number
    that is published."""
    leaf = [leaves[node.name] for node in expression.nodes if isinstance(node, Registered)]
    groups = {spec.shape[0] for spec in leaf if spec.shape}
    if len(groups) != 1:
        raise BadInput(
            f"{describe(expression)} does not come from one table of rows: give weights=, or take tensors that "
            "belong together"
        )
