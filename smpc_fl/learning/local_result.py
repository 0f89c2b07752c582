"""What one owner has after its part of a training round, before anything is clipped or weighed. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from smpc_fl.plans.layout import Vector


@dataclass(frozen=True, eq=False)
class LocalResult:
    """`delta` float32[p], the parts one behind the other; the number of rows behind it; {"loss": mean training loss}, or what
    an update function tells; and what the owner keeps for the next round. All of it is private."""

    delta: Vector = field(repr=False)
    rows: int = field(repr=False)
    metrics: dict[str, float] = field(repr=False)
    keep: dict[str, Vector] = field(repr=False, default_factory=dict)
