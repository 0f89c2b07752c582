"""What a researcher reads when real nodes refuse: the error class of the rule, and a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from commands import until
from processes_on_disk import AGGREGATORS, OnDisk
from sample_federation import linear_plan, owners

import smpc_fl as sf
from smpc_fl.errors import (
    AggregatorsNotPinned,
    BadSignature,
    CohortTooSmall,
    NotFinite,
    PlanRejected,
    PrecisionTooLow,
    RevokedKey,
    SmpcError,
    UnknownMember,
    VersionMismatch,
    WeightOutOfRange,
    WrongRole,
)
from smpc_fl.nodes.home.keys import make_key
from smpc_fl.nodes.net import dialer
from smpc_fl.nodes.net.handshake import authenticate
from smpc_fl.protocols.messages import PROTOCOL_VERSION

NAMES = ("alice", "bob", "carol", "dave")
GOOD = ["alice", "bob", "carol"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDisk]:
    """Dave has pinned another pair of aggregators than the roster's. Three owners would do, but k_min is two here, so
    that one of them can be revoked."""
    roles: dict[str, Any] = {
        **dict.fromkeys(NAMES, "owner"), **dict.fromkeys(AGGREGATORS, "aggregator"), "coordinator": "coordinator",
        "researcher": "researcher", "assistant": "researcher",
    }  # fmt: skip
    made = OnDisk(
        tmp_path_factory.mktemp("refusals"), roles, k_min=2, policies={
            "dave": {"aggregators": ("aggregator-1", "aggregator-9")}, "carol": {"max_rounds": 100}
        }
    )  # fmt: skip
    data = dict(zip(NAMES, owners(4, rows=20).values(), strict=True))
    for tensors in data.values():
        tensors["holes"] = torch.where(tensors["x"] > 1.0, torch.nan, tensors["x"])
    try:
        made.start([id_ for id_, role in roles.items() if role != "researcher"], data)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def fed(world: OnDisk) -> Iterator[sf.Federation]:
    with sf.connect(world.researcher(), timeout=60.0) as federation:
        yield federation.wait_for_owners()


def train(fed: sf.Federation, cohort: list[str], **changes: Any) -> sf.Run:
    arguments = {"inputs": "x", "targets": "y", "rounds": 1, "owners": cohort, **changes}
    return fed.train(linear_plan(), **arguments)


def test_good_jobs_run(fed: sf.Federation) -> None:
    (round_,) = train(fed, GOOD).wait().rounds
    assert round_.included == GOOD


REFUSED: dict[str, tuple[type[SmpcError], list[str], dict[str, Any], str]] = {
    "more rows than max_samples": (WeightOutOfRange, GOOD, {"max_samples": 16}, "raise the job's max_samples"),
    "NaN in an update": (NotFinite, GOOD, {"inputs": "holes"}, "fill in missing values"),
    "aggregators that are not pinned": (AggregatorsNotPinned, ["alice", "dave"], {}, "change the pinned set"),
    "too few owners": (CohortTooSmall, ["alice"], {}, "add owners"),
    "more rounds than an owner takes part in": (
        sf.JobNotApproved, ["alice", "carol"], {"rounds": 101}, "100 at most"
    ),
    "no such tensor": (SmpcError, GOOD, {"inputs": "nothing"}, "it has: "),
    "no ring is wide enough": (PrecisionTooLow, GOOD, {"tolerance": 1e-30}, "larger tolerance"),
    "32 bits are not enough": (PrecisionTooLow, GOOD, {"ring_bits": 32, "clip": 1e6}, "or more, a smaller clip"),
    "updates of too few bits": (PrecisionTooLow, GOOD, {"update_bits": 8}, "use update_bits="),
    "no ring of so few bits": (sf.BadInput, GOOD, {"ring_bits": 7}, ">= 8"),
    "no ring of this name": (sf.BadInput, GOOD, {"ring_bits": "fits"}, "ring_bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_ends_with_the_rules_own_error(fed: sf.Federation, name: str) -> None:
    kind, cohort, changes, remedy = REFUSED[name]
    with pytest.raises(kind) as caught:
        train(fed, cohort, **changes).wait()
    assert remedy in str(caught.value)
    for rows in range(30, 61, 10):
        assert f" {rows} " not in str(caught.value)


def test_a_plan_that_owners_do_not_run_is_refused(fed: sf.Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a plan, as somebody may have edited them: every owner checks them again."""
    plan = linear_plan()
    edited = plan.to_bytes().replace(b"aten.linear.default", b"aten.nonzero.default")
    assert edited != plan.to_bytes()
    monkeypatch.setattr(type(plan), "to_bytes", lambda self: edited)
    with pytest.raises(PlanRejected, match="nonzero"):
        fed.train(plan, inputs="x", targets="y", rounds=1, owners=GOOD).wait()


# --- who may come in ---


def test_another_version_of_the_protocol_is_refused_by_name(
    fed: sf.Federation, world: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "authenticate", partial(authenticate, version=PROTOCOL_VERSION + 1))
    with pytest.raises(VersionMismatch, match="install the same release"):
        sf.connect(world.researcher("assistant"))


@pytest.mark.parametrize("id_", ["bob", "aggregator-1"])
def test_a_key_of_another_role_is_refused(fed: sf.Federation, world: OnDisk, id_: str) -> None:
    with pytest.raises(WrongRole, match=f"{id_} is"):
        sf.connect(world.researcher(id_, home=world.folder / "elsewhere"))


def test_a_stranger_is_refused(fed: sf.Federation, world: OnDisk) -> None:
    make_key(world.folder / "stranger.key")
    with pytest.raises(UnknownMember, match="mallory"):
        sf.connect(world.researcher(id="mallory", key=world.folder / "stranger.key", home=world.folder / "mallory"))


def test_a_member_with_another_key_is_refused(fed: sf.Federation, world: OnDisk) -> None:
    with pytest.raises(BadSignature):
        sf.connect(world.researcher("assistant", key=world.folder / "stranger.key"))


# --- revocation; from here on, members are gone ---


def test_a_revoked_owner_takes_part_in_no_further_round(fed: sf.Federation, world: OnDisk) -> None:
    run = train(fed, GOOD, rounds=100)
    for round_ in run:
        if round_.number == 2:
            world.publish("carol")
        if "carol" not in round_.included:
            run.cancel()
            break
    assert round_.included == ["alice", "bob"]
    assert "carol" in round_.missing
    until(lambda: "carol" not in fed.owners, "the researcher has the new roster")
    with pytest.raises(RevokedKey, match="carol"):
        train(fed, GOOD).wait()


def test_a_revoked_researcher_is_told_so(fed: sf.Federation, world: OnDisk) -> None:
    with sf.connect(world.researcher("assistant")) as assistant:
        assert assistant["alice"].search()
        world.publish("assistant")
        until(lambda: assistant._channel._dialer.error is not None, "the coordinator has refused to have it back")
        with pytest.raises(RevokedKey, match="assistant"):
            assistant.status()
        with pytest.raises(RevokedKey, match="assistant"):
            train(assistant, ["alice", "bob"]).wait()
    with pytest.raises(RevokedKey, match="assistant"):
        sf.connect(world.researcher("assistant"))
    assert train(fed, ["alice", "bob"]).wait().rounds
