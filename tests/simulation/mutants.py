"""Faults planted in the product's machines and in the shell around them, one line each, that the simulation has to find.

Each says what it breaks and which invariants are to see it. A mutant that nobody finds is a hole in the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from disk import Change
from federation_of_seed import Federation
from members import Aggregator, Owner
from scenario import Scenario
from shell import Segment, Shell, Steps
from toy_crypto import Draws

from smpc_fl.protocols import agreement, partial, reports
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator_states import State
from smpc_fl.protocols.commands import Command, EraseSecrets, Persist
from smpc_fl.protocols.coordinator import CoordinatorRound
from smpc_fl.protocols.messages import VectorReport
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.records import Released, Reporting
from smpc_fl.protocols.releases import Releases
from smpc_fl.ring import ring

Plant = Callable[[pytest.MonkeyPatch], None]
Where = Callable[[Scenario], bool]


def lies(scenario: Scenario) -> bool:
    return scenario.mischief > 0


def two_runs(scenario: Scenario) -> bool:
    return len(scenario.runs) > 1


def hasty(scenario: Scenario) -> bool:
    return bool(scenario.hasty)


def loses_messages(scenario: Scenario) -> bool:
    return bool(scenario.rates)


def damages(scenario: Scenario) -> bool:
    return "damage" in scenario.rates or lies(scenario)


def goes_on_regardless(scenario: Scenario) -> bool:
    return scenario.goes_on_regardless


def crashes_in_a_burst(scenario: Scenario) -> bool:
    return scenario.crash_rate > 0 and scenario.computing < 1 and scenario.slowest_commit > 0.1


def lies_and_waits(scenario: Scenario) -> bool:
    return lies(scenario) and waits_for_owners(scenario)


def noisy(scenario: Scenario) -> bool:
    return scenario.noisy


def waits_for_owners(scenario: Scenario) -> bool:
    return bool(scenario.slow)


def restores(scenario: Scenario) -> bool:
    return any(plan.what.startswith("restore") and plan.who in scenario.aggregators for plan in scenario.planned)


@dataclass(frozen=True)
class Mutant:
    """`breaks`: the rule that is gone; `seen_by`: the invariants of which one is to be violated; `where`: scenarios in which
    it can matter, to look at these only."""

    name: str
    breaks: str
    seen_by: tuple[str, ...]
    plant: Plant
    where: Where

    @contextmanager
    def planted(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self.plant(patch)
            yield

    def caught(self, seeds: Sequence[int]) -> int | None:
        """The first of these seeds that finds it, by an invariant that is to see it."""
        with self.planted():
            for scenario in filter(self.where, map(Scenario.of, seeds)):
                verdict = Federation(scenario, remembered=1).run()
                if verdict is not None and verdict.name in self.seen_by:
                    return scenario.seed
        return None


MUTANTS: list[Mutant] = []


def mutant(breaks: str, *seen_by: str, where: Where = lambda scenario: True) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(plant.__name__, breaks, seen_by, plant, where))
        return plant

    return add


def _without(patch: pytest.MonkeyPatch, machine: type, method: str, kind: type[Command]) -> None:
    """The method's commands of this kind are never given."""
    original = getattr(machine, method)

    def changed(self: Any, *args: Any, **more: Any) -> list[Command]:
        return [command for command in original(self, *args, **more) if not isinstance(command, kind)]

    patch.setattr(machine, method, changed)


def _before(patch: pytest.MonkeyPatch, machine: type, method: str, first: Callable[..., None]) -> None:
    """Something is done before the method."""
    original = getattr(machine, method)

    def changed(self: Any, *args: Any, **more: Any) -> Any:
        first(self, *args, **more)
        return original(self, *args, **more)

    patch.setattr(machine, method, changed)


# --- the shell ---


@mutant("a record is not written before what it allows is said", "said_is_durable")
def writes_nothing(patch: pytest.MonkeyPatch) -> None:
    def make_durable(self: Shell, segment: Segment) -> Steps:
        yield from ()

    patch.setattr(Shell, "_make_durable", make_durable)


@mutant("what is said leaves while its record is still being written", "said_is_durable")
def speaks_first(patch: pytest.MonkeyPatch) -> None:
    carry_out, make_durable = Shell._carry_out, Shell._make_durable

    def swapped(self: Shell, segment: Segment) -> Steps:
        yield from carry_out(self, replace(segment, records=[], bulk=None, erases=False))
        yield from make_durable(self, replace(segment, others=[]))

    patch.setattr(Shell, "_carry_out", swapped)


@mutant("a commit is answered before it is on the disk", "said_is_durable")
def does_not_sync(patch: pytest.MonkeyPatch) -> None:
    make_durable = Shell._make_durable

    def lazily(self: Shell, segment: Segment) -> Steps:
        for change in make_durable(self, segment):
            change.sync = False
            yield change

    patch.setattr(Shell, "_make_durable", lazily)


@mutant("an erasure is left for later", "nothing_secret_is_left")
def keeps_what_is_to_be_erased(patch: pytest.MonkeyPatch) -> None:
    def make_durable(self: Shell, segment: Segment) -> Steps:
        yield Change(self.stream, segment.records, segment.bulk, more=segment.ledger)

    patch.setattr(Shell, "_make_durable", make_durable)


# --- aggregators ---


@mutant("a report is acknowledged and not written", "said_is_durable")
def acknowledges_early(patch: pytest.MonkeyPatch) -> None:
    _without(patch, AggregatorRound, "_report", Persist)


@mutant(
    "the sum is written with vectors whose records are not there yet",
    "counted_once",
    where=crashes_in_a_burst,
)
def writes_the_growing_sum(patch: pytest.MonkeyPatch) -> None:
    def snapshot(self: AggregatorRound) -> memoryview:
        return memoryview(b"") if self._sum is None else ring(self._manifest.ring_bits).as_buffer(self._sum)

    patch.setattr(AggregatorRound, "_snapshot", snapshot)


@mutant("a report is taken after the list is frozen", "receipts_are_kept")
def takes_late_reports(patch: pytest.MonkeyPatch) -> None:
    admit = AggregatorRound._admit

    def late(self: AggregatorRound, *args: Any) -> bytes:
        state, self.state = self.state, State.OPEN
        try:
            return admit(self, *args)
        finally:
            self.state = state

    patch.setattr(AggregatorRound, "_admit", late)


@mutant("a vector that comes again after a reconnection is added again", "counted_once")
def adds_a_vector_again(patch: pytest.MonkeyPatch) -> None:
    def forget(self: AggregatorRound, owner: str, message: Any, attachment: Any) -> None:
        if (
            isinstance(message, VectorReport)
            and self.state is State.OPEN
            and isinstance(attachment, memoryview | bytearray)
        ):
            self._reports.pop(owner, None)

    _before(patch, AggregatorRound, "_report", forget)


@mutant(
    "after a restart nobody knows which reports were taken: the replay key is forgotten",
    "lists_are_whole",
    "counted_once",
)
def forgets_whose_reports_it_has(patch: pytest.MonkeyPatch) -> None:
    restore = AggregatorRound.restore.__func__  # type: ignore[attr-defined]

    def forgetful(cls: Any, *args: Any, **more: Any) -> AggregatorRound:
        machine: AggregatorRound = restore(cls, *args, **more)
        if machine.state is State.OPEN:
            machine._reports.clear()
        return machine

    patch.setattr(AggregatorRound, "restore", classmethod(forgetful))


@mutant(
    "a carrier adds a vector without the receipts of all seed holders",
    "receipts_are_kept",
    where=hasty,
)
def carries_what_is_incomplete(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reports, "_check_receipts", lambda *args: None)


@mutant("the frozen list is not written", "said_is_durable")
def freezes_in_memory(patch: pytest.MonkeyPatch) -> None:
    _without(patch, AggregatorRound, "_freeze", Persist)


@mutant("the vote is not written: after a crash another may be cast", "said_is_durable")
def votes_in_memory(patch: pytest.MonkeyPatch) -> None:
    _without(patch, AggregatorRound, "_lists", Persist)


@mutant("a vote against a release is taken back when the lists come again", "said_once", where=lies_and_waits)
def votes_twice(patch: pytest.MonkeyPatch) -> None:
    def unvote(self: AggregatorRound, message: Any) -> None:
        if self.state is State.VOTED and self._vote is not None and not self._vote.choice:
            self.state = State.FROZEN
            patch.setattr(self, "_objection", lambda agreed: None)

    _before(patch, AggregatorRound, "_lists", unvote)


@mutant("an abort is signed after a vote for S", "released_or_aborted", where=lies)
def aborts_after_its_vote(patch: pytest.MonkeyPatch) -> None:
    def unvote(self: AggregatorRound) -> None:
        if self.state is State.VOTED:
            self.state = State.FROZEN

    _before(patch, AggregatorRound, "_abort_request", unvote)


@mutant("an abort is signed after the release", "released_or_aborted", where=lies)
def aborts_after_its_release(patch: pytest.MonkeyPatch) -> None:
    def unrelease(self: AggregatorRound) -> None:
        if self.state is State.RELEASED:
            self.state = State.FROZEN

    _before(patch, AggregatorRound, "_abort_request", unrelease)


@mutant("a sum is released on one's own vote alone", "released_or_aborted", where=lies)
def releases_before_agreement(patch: pytest.MonkeyPatch) -> None:
    def alone(message: Any, party: Any, manifest: Any, hash_: bytes, own: bytes | None) -> dict[str, bytes]:
        return {} if own is None else dict.fromkeys(manifests.aggregator_ids(manifest), own)

    patch.setattr(agreement, "choices", alone)


@mutant("a sum over fewer than k_min owners is released", "enough_owners", where=waits_for_owners)
def forgets_k_min(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agreement, "too_few", lambda *args: None)


@mutant(
    "sums that could be subtracted from each other are released",
    "nobody_is_isolated",
    where=two_runs,
)
def forgets_earlier_sums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agreement, "subtractable", lambda *args: None)
    patch.setattr(manifests, "isolates", lambda *args: False)


@mutant(
    "what was claimed for a release is not in the ledger",
    "nobody_is_isolated",
    where=two_runs,
)
def claims_in_memory(patch: pytest.MonkeyPatch) -> None:
    keep = AggregatorRound._keep

    def forgetful(self: AggregatorRound, record: Any, bulk: Any = None, ledger: Any = None) -> Persist:
        return keep(self, record, bulk)

    patch.setattr(AggregatorRound, "_keep", forgetful)


@mutant("after a restart an aggregator has forgotten how many sums it voted to release", "nobody_is_accused")
def forgets_how_many_it_released(patch: pytest.MonkeyPatch) -> None:
    learn = Releases.learn

    def only_what_it_hears(self: Releases, record: Any) -> None:
        if isinstance(record, Released):
            learn(self, record)
        else:
            self.number += 1  # as it votes; what it reads at a start counts for nothing

    def start(self: Aggregator) -> None:
        open_(self)
        self.releases.number = 0

    open_ = Aggregator.open
    patch.setattr(Releases, "learn", only_what_it_hears)
    patch.setattr(Aggregator, "open", start)


@mutant("a second manifest of one attempt is endorsed", "said_once", where=lies)
def endorses_two_manifests(patch: pytest.MonkeyPatch) -> None:
    def forget(self: AggregatorRound, signed: Any, now: float) -> None:
        if self.state is State.OPEN and manifests.manifest_hash(signed) != self.manifest_hash:
            self.state, self.manifest = State.PREPARED, None

    _before(patch, AggregatorRound, "_offer", forget)


@mutant(
    "a new attempt need not carry the aborts of those before it",
    "one_set_in_a_round",
    where=goes_on_regardless,
)
def asks_for_no_aborts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(manifests, "_check_aborts", lambda *args: None)


@mutant("the round's secrets stay after the coordinator's receipt", "nothing_secret_is_left")
def erases_nothing_after_its_release(patch: pytest.MonkeyPatch) -> None:
    _without(patch, AggregatorRound, "_receipt", EraseSecrets)


@mutant("noise is drawn again in a release that is sealed again after a crash", "one_noise", where=noisy)
def draws_its_noise_again(patch: pytest.MonkeyPatch) -> None:
    seal, draws = partial.seal, Draws("noise")

    def afresh(*args: Any, secret: bytes, **more: Any) -> Any:
        return seal(*args, secret=draws(32), **more)

    patch.setattr(partial, "seal", afresh)


@mutant("a sum that is not where the journal says is taken for zero", "exact_sum", "counted_once", where=restores)
def takes_a_lost_sum_for_nothing(patch: pytest.MonkeyPatch) -> None:
    restore = AggregatorRound.restore.__func__  # type: ignore[attr-defined]

    def trusting(cls: Any, *args: Any, **more: Any) -> AggregatorRound:
        machine: AggregatorRound = restore(cls, *args, **more)
        machine._lost = False
        return machine

    patch.setattr(AggregatorRound, "restore", classmethod(trusting))


# --- owners ---


@mutant(
    "an owner computes on whatever model came",
    "right_model",
    where=damages,
)
def ignores_the_model_digest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwnerRound, "_check_model", lambda self, model, manifest: None)


@mutant("a report leaves before every aggregator has endorsed the manifest", "one_manifest_for_all", where=lies)
def skips_the_endorsements(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(manifests, "check_endorsements", lambda *args: None)


@mutant("a retry draws the seeds and keys of the first attempt again", "fresh_secrets")
def reuses_seeds_in_a_retry(patch: pytest.MonkeyPatch) -> None:
    def rewind(self: OwnerRound, encoded: Any) -> None:
        self._entropy = Draws((self.party.id, self.key))

    _before(patch, OwnerRound, "_share", rewind)


@mutant("a retry shares other integers than the attempt before", "same_integers")
def encodes_anew_in_a_retry(patch: pytest.MonkeyPatch) -> None:
    unseal = OwnerRound._unseal

    def changed(self: OwnerRound) -> None:
        unseal(self)
        if self._encoded is not None:
            self._encoded = self._encoded + 1

    patch.setattr(OwnerRound, "_unseal", changed)


@mutant("a report is not written before it leaves: after a crash another takes its place", "said_is_durable")
def reports_from_memory(patch: pytest.MonkeyPatch) -> None:
    _without(patch, OwnerRound, "_share", Persist)


@mutant("after a crash an owner shares its update again under fresh seeds", "one_vector", "said_is_durable")
def shares_again_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    restore = OwnerRound.restore.__func__  # type: ignore[attr-defined]

    def forgetful(
        cls: Any, party: Any, rules: Any, key: Any, expected: Any, records: Any, *rest: Any, **more: Any
    ) -> Any:
        kept = [record for record in records if not isinstance(record, Reporting)]
        return restore(cls, party, rules, key, expected, kept, *rest, **more)

    patch.setattr(OwnerRound, "restore", classmethod(forgetful))


@mutant("the vector leaves after the first receipt", "vectors_come_last")
def sends_its_vector_early(patch: pytest.MonkeyPatch) -> None:
    receipt = OwnerRound._receipt

    def early(self: OwnerRound, sender: str, signed: Any) -> list[Command]:
        commands = receipt(self, sender, signed)
        if self.state is OwnerState.SEEDING and self._receipts:
            self.state = OwnerState.CARRYING
            return list(self._outstanding())
        return commands

    patch.setattr(OwnerRound, "_receipt", early)


@mutant(
    "a receipt of another attempt counts for this one, to the node and to its machine",
    "vectors_come_last",
    where=loses_messages,
)
def takes_any_receipt(patch: pytest.MonkeyPatch) -> None:
    def any_receipt(self: OwnerRound, sender: str, receipt: Any) -> bool:
        return self.state in (OwnerState.SEEDING, OwnerState.CARRYING) and sender in self._aggregators

    patch.setattr(OwnerRound, "_is_receipt", any_receipt)
    patch.setattr(Owner, "meant_for", lambda self, shell, message: True)


@mutant("an owner keeps its seeds when the round is closed", "nothing_secret_is_left")
def erases_nothing_at_the_close(patch: pytest.MonkeyPatch) -> None:
    _without(patch, OwnerRound, "_close", EraseSecrets)


# --- the coordinator ---


@mutant("partial sums are receipted, and so erased, before the total is written", "said_is_durable")
def receipts_before_the_total_is_written(patch: pytest.MonkeyPatch) -> None:
    _without(patch, CoordinatorRound, "_partial", Persist)


@mutant(
    "a partial sum that comes twice is added twice",
    "counted_once",
    "exact_sum",
    where=loses_messages,
)
def adds_a_partial_sum_again(patch: pytest.MonkeyPatch) -> None:
    def forget(self: CoordinatorRound, sender: str, *_: Any) -> None:
        self._partials.discard(sender)

    _before(patch, CoordinatorRound, "_partial", forget)


@mutant("a coordinator waits for ever", "every_run_ends", "ends_in_time")
def never_gives_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CoordinatorRound, "_tick", lambda self, now: [])
