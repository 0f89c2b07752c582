"""Once a round is over, however it ended, nobody can read it any more: not with all keys of all nodes, all their files and
all that ever went over the wire. The nodes are the real ones, with real disks and sockets; an attacker has recorded
everything, and every secret of theirs is known to the test, which looks for it in every byte of every file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from commands import until
from indoors import Indoors, indoors
from seizure import Attacker, Opened, possible_keys, spooled

import smpc_fl as sf
from smpc_fl.errors import BadInput, SmpcError
from smpc_fl.nodes.owner import Owner
from smpc_fl.protocols.messages import AbortRequest, FrozenLists, ReleaseReceipt, Reported, SeedReport, VectorReport

OWNERS = [f"owner-{number}" for number in range(1, 5)]
LAST = OWNERS[-1]
COLUMNS = 40
pytestmark = pytest.mark.filterwarnings("ignore::smpc_fl.pointers.aggregates.OwnersMissingWarning")
PATIENCE = 30.0
"""Seconds until members have erased what they have been told to erase."""
NODES = [*OWNERS, "aggregator-1", "aggregator-2", "aggregator-3", "coordinator"]


def tensors(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {f"x{index}": torch.randn(20 + number, COLUMNS, generator=generator) for index in range(1, 8)}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Indoors, sf.Federation]]:
    data = {owner: tensors(number) for number, owner in enumerate(OWNERS, 1)}
    with indoors(tmp_path_factory.mktemp("seized"), data, deadline=1.5) as made:
        yield made


@pytest.fixture
def world(federation: tuple[Indoors, sf.Federation]) -> tuple[Indoors, sf.Federation]:
    """Everybody is there, whatever the last test has done; the secrets that it left are none of this one's."""
    made, fed = federation
    for id_ in NODES:
        if id_ not in made.nodes:
            made.start_node(id_)
    fed.wait_for_owners()
    return federation


class Question(threading.Thread):
    """A secure mean that is asked in the background, over a tensor that no other question is about."""

    def __init__(self, fed: sf.Federation, name: str) -> None:
        super().__init__(daemon=True)
        self.fed, self.name_ = fed, name
        self.mean: torch.Tensor | None = None
        self.error: SmpcError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.mean = sf.secure_mean([owner.tensor(self.name_).mean(0) for owner in self.fed], bound=8.0)
        except SmpcError as error:
            self.error = error

    def answer(self) -> torch.Tensor:
        self.join(100.0)
        assert self.mean is not None, self.error
        return self.mean


def seized(world: Indoors, *ids: str, everywhere: bool = False) -> Opened:
    """All that the attacker reads with what it finds at these nodes (at all of them, if none is named)."""
    files = world.files(*ids)
    attacker = Attacker(world.party("coordinator"), world.wires())
    keys = possible_keys(files, [world.keys[id_] for id_ in ids or NODES], everywhere=everywhere)
    opened = attacker.open(keys)
    opened.spooled = spooled(files, world.folder.parent / "copy")
    return opened


def left(world: Indoors, *ids: str) -> dict[str, set[str]]:
    """Secrets that are in files of these nodes, by file."""
    found = {str(path): world.secrets.within(data) for path, data in world.files(*ids).items()}
    return {path: kinds for path, kinds in found.items() if kinds}


def nothing_is_left(world: Indoors, *ids: str) -> None:
    # Owners and aggregators erase when they hear that the round is over, which is after its result is told.
    with contextlib.suppress(AssertionError):
        until(lambda: not left(world, *ids), "the round's secrets are erased", PATIENCE)
    assert left(world, *ids) == {}


def test_a_round_under_way_can_be_read_and_one_that_is_over_cannot(world: tuple[Indoors, sf.Federation]) -> None:
    """The control first: in the midst of the round the very same attack rebuilds every owner's update."""
    made, fed = world
    with made.holding("coordinator", FrozenLists) as reached:
        question = Question(fed, "x1")
        reached()
        during = seized(made)
        attacker = Attacker(made.party("coordinator"), made.wires())
        rebuilt = attacker.rebuild(during)
        kinds = set().union(*left(made).values())
    encoded = {data for data, kind in made.secrets.known.items() if kind == "an encoded update"}
    assert {words.tobytes()[: len(next(iter(encoded)))] for words in rebuilt.values()} == encoded
    assert len(encoded) == len(OWNERS)
    assert (len(during.seeds), len(during.vectors), len(during.blinders)) == (8, 4, 12)
    assert {text.split(":")[0] for text in during.spooled} >= {*OWNERS, "aggregator-1"}
    assert kinds >= {"drawn by owner", "drawn by aggregator", "drawn by coordinator", "the key of a spooled vector"}
    expected = sum(tensors(n)["x1"].sum(0) for n in range(1, 5)) / sum(20 + n for n in range(1, 5))
    np.testing.assert_allclose(question.answer(), expected, atol=1e-3)
    assert {"a vector share", "an opened vector", "derived: smpc-fl/1 channel"} <= made.secrets.kinds()
    nothing_is_left(made)


def test_an_owner_that_dropped_out_erases_its_report_when_it_is_back(world: tuple[Indoors, sf.Federation]) -> None:
    made, fed = world
    with made.holding(LAST, VectorReport) as reached:
        question = Question(fed, "x2")
        reached()
        made.stop_node(LAST)
    question.answer()
    others = [id_ for id_ in NODES if id_ != LAST]
    nothing_is_left(made, *others)
    assert seized(made).seeds.keys() & seized(made, LAST).seeds.keys(), "the control: it still could send its report"
    made.start_node(LAST)
    nothing_is_left(made)


def test_it_does_so_whoever_was_started_again_meanwhile(world: tuple[Indoors, sf.Federation]) -> None:
    made, fed = world
    with made.holding(LAST, Reported) as reached:
        question = Question(fed, "x3")
        reached()
        made.stop_node(LAST)
    question.answer()
    for id_ in ("coordinator", "aggregator-1", "aggregator-2", "aggregator-3"):
        made.stop_node(id_)
    for id_ in ("aggregator-1", "aggregator-2", "aggregator-3", "coordinator", LAST):
        made.start_node(id_)
    nothing_is_left(made)


def test_an_attempt_that_was_aborted_and_the_one_after_it(world: tuple[Indoors, sf.Federation]) -> None:
    """An aggregator aborts in the midst of the round, and the next attempt is released."""
    made, fed = world
    with made.holding("coordinator", FrozenLists) as reached:
        question = Question(fed, "x4")
        reached()
        *_, manifest = Attacker(made.party("coordinator"), made.wires()).manifests.values()
        made.call(made.nodes["coordinator"].tell("aggregator-1", AbortRequest(manifest.run, manifest.round, 0)))
    question.answer()
    attempts = Attacker(made.party("coordinator"), made.wires()).manifests.values()
    assert [each.attempt for each in attempts if each.run == manifest.run] == [0, 1]
    nothing_is_left(made)


@pytest.fixture
def two_fail(world: tuple[Indoors, sf.Federation], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Once this is set, two owners find that they cannot compute, so that too few are left; the others send their reports."""
    go = threading.Event()

    def fail(*arguments: object, **more: object) -> None:
        assert go.wait(100.0)
        raise BadInput("cannot be computed")

    for id_ in OWNERS[2:]:
        owner = world[0].nodes[id_]
        assert isinstance(owner, Owner)
        monkeypatch.setattr(owner.holdings, "vector", fail)
    return go


def test_a_run_that_failed(world: tuple[Indoors, sf.Federation], two_fail: threading.Event) -> None:
    made, fed = world
    with made.holding(OWNERS[1], Reported) as reached:
        question = Question(fed, "x6")
        reached()
    two_fail.set()
    question.join(100.0)
    assert question.error is not None
    nothing_is_left(made)


def test_an_owner_that_was_away_when_the_run_failed(
    world: tuple[Indoors, sf.Federation], two_fail: threading.Event
) -> None:
    made, fed = world
    with made.holding(OWNERS[0], Reported) as reached:
        question = Question(fed, "x7")
        reached()
        made.stop_node(OWNERS[0])
    two_fail.set()
    question.join(100.0)
    assert question.error is not None
    made.start_node(OWNERS[0])
    nothing_is_left(made)


def test_an_aggregator_that_was_away_when_the_round_closed(world: tuple[Indoors, sf.Federation]) -> None:
    made, fed = world
    with made.holding("coordinator", ReleaseReceipt) as reached:
        question = Question(fed, "x5")
        reached()
        made.stop_node("aggregator-2")
    question.answer()
    assert left(made, "aggregator-2"), "the control"
    made.start_node("aggregator-2")
    nothing_is_left(made)


def test_nothing_of_all_that_was_ever_sent_can_be_decrypted(world: tuple[Indoors, sf.Federation]) -> None:
    made, _ = world
    opened = seized(made)
    assert opened.bytes == 0
    assert opened.spooled == []
    attacker = Attacker(made.party("coordinator"), made.wires())
    sealed = [said.message for _, _, said in attacker.passed if isinstance(said.message, SeedReport | VectorReport)]
    assert len(sealed) > 60
