"""An owner that is revoked in mid-round: nobody waits for it, and the round is exact over the others."""

from __future__ import annotations

import pytest
from rig import OWNERS, Rig

from smpc_fl.errors import RevokedKey
from smpc_fl.protocols.commands import PeerGone
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.messages import RoundOffer
from smpc_fl.protocols.simulate import COORDINATOR

GONE = RevokedKey("the key of dave was revoked")


def test_nobody_waits_for_a_revoked_owner() -> None:
    rig = Rig()
    rig.begin()
    rig.until(RoundOffer, "dave")
    began = rig.now
    rig.deliver(COORDINATOR, PeerGone("dave", GONE))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert [entry.owner for entry in outcome.agreed] == list(OWNERS[:3])
    assert outcome.refusals == {"dave": GONE}
    assert rig.now == began, "the deadline was waited for"


@pytest.mark.parametrize("gone", [*OWNERS, "mallory"])
def test_one_whose_report_is_in_stays_in(gone: str) -> None:
    rig = Rig()
    rig.begin()
    rig.settle()
    assert set(rig.coordinator.reported) == set(OWNERS)
    rig.deliver(COORDINATOR, PeerGone(gone, GONE))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert [entry.owner for entry in outcome.agreed] == list(OWNERS)
    assert not outcome.refusals


def test_too_few_are_left() -> None:
    rig = Rig()
    rig.begin()
    rig.until(RoundOffer, "carol")
    for gone in ("carol", "dave"):
        rig.deliver(COORDINATOR, PeerGone(gone, GONE))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, GivenUp)
    assert "fewer than k_min = 3 owners can take part: carol: the key" in outcome.error.message
