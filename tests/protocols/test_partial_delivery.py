"""An owner whose report reaches some aggregators and not others is in the agreed set only when it is complete everywhere."""

from __future__ import annotations

from itertools import combinations

import pytest
from rig import OWNERS, Rig

from smpc_fl.protocols.commands import Event, Received
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.manifest import aggregator_ids
from smpc_fl.protocols.messages import Receipt, SeedReport, VectorReport
from smpc_fl.shares import carrier

CASES = [
    (m, frozenset(lost), kind)
    for m in (2, 3, 4)
    for count in range(m + 1)
    for lost in combinations(range(m), count)
    for kind in ("report", "receipt")[: 1 + bool(lost)]
]


class Lossy(Rig):
    """What goes from or comes to one owner is lost at some aggregators, every time that it is said."""

    def __init__(self, owner: str, lost: set[str], kind: str, aggregators: int, round_number: int) -> None:
        super().__init__(aggregators=aggregators, round_number=round_number)
        self.victim, self.lost, self.kind = owner, lost, kind

    def deliver(self, to: str, event: Event) -> None:
        if isinstance(event, Received):
            if self.kind == "report" and event.sender == self.victim and to in self.lost:
                assert isinstance(event.message, SeedReport | VectorReport)
                return
            if self.kind == "receipt" and to == self.victim and event.sender in self.lost:
                assert isinstance(event.message, Receipt)
                return
        super().deliver(to, event)


@pytest.mark.parametrize(("m", "lost", "kind"), CASES)
def test_in_the_set_only_when_complete_everywhere(m: int, lost: frozenset[int], kind: str) -> None:
    """A lost receipt loses nothing at the carrier: it is the last to have what the others have acknowledged."""
    owner = OWNERS[sum(lost) % len(OWNERS)]
    rig = Lossy(owner, {f"aggregator-{number}" for number in lost}, kind, m, round_number=len(lost))
    outcome = rig.run()
    assert isinstance(outcome, Released)
    rig.check(outcome)
    manifest = rig.coordinator.manifest
    assert manifest is not None
    carries = carrier(owner, manifest.cohort, manifest.round, aggregator_ids(manifest))
    complete = not (rig.lost - ({carries} if kind == "receipt" else set()))
    assert (owner in [entry.owner for entry in outcome.agreed]) == complete
