"""The nodes of the simulation: what `nodes.aggregator` and `nodes.owner` do around their machines, and how a node dies and
comes back from its disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from disk import Change, Disk, decoded, ledger_of
from mischief import HastyOwner
from scenario import Crash, Scenario
from shell import Shell, Steps
from toy_crypto import Draws
from world import Killed, World

from smpc_fl.errors import MalformedMessage, ManifestRefused, SmpcError, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator_states import ENDED
from smpc_fl.protocols.commands import Computed, ComputeFailed, PeerUp, Received, Send
from smpc_fl.protocols.manifest import Rules, manifest_hash, subject_of
from smpc_fl.protocols.messages import (
    AbortRequest,
    Manifest,
    ManifestOffer,
    Message,
    PrekeyRequest,
    Refusal,
    RoundClosed,
    RoundOffer,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Aborted, Claim, Closed, Outdated, Record, Released
from smpc_fl.protocols.releases import Releases, computation_of
from smpc_fl.protocols.simulate import COORDINATOR

if TYPE_CHECKING:
    from books import Books
    from network import Network

Backup = Any
DISK_AGAIN = 1.0
"""Seconds between two tries to write to a full disk, as in `nodes.rounds`."""
KEPT = 2
"""Attempts in an aggregator's memory from which on those that have ended are forgotten there (16 in a node)."""


class Member:
    """A node: up or down, with a disk, a clock of its own, and one life after another."""

    def __init__(self, world: World, network: Network, books: Books, party: Party, scenario: Scenario) -> None:
        self.world, self.network, self.books, self.party, self.scenario = world, network, books, party, scenario
        self.id = party.id
        self.disk = Disk()
        self.entropy = Draws((scenario.seed, self.id))
        self.skew = scenario.skews.get(self.id, 0.0)
        self.up, self.dead, self.life = False, False, 0
        self.boundaries = 0
        self.dies_at = dict(scenario.crashes.get(self.id, {}))

    @property
    def clock(self) -> float:
        return self.world.now + self.skew

    def tell(self, text: str) -> None:
        self.world.tell(f"{self.id}  {text}")

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """In this life; never in another."""
        life = self.life

        def act() -> None:
            if self.up and self.life == life:
                action()

        self.world.after(seconds, act)

    # --- writing ---

    def work(self, steps: Steps, error: Unavailable | None = None) -> None:
        """Go on with a piece of work until its next commit."""
        try:
            change = steps.throw(error) if error else next(steps)
        except StopIteration:
            return
        if not self.begins(change, steps) or change.unwanted():
            return
        self.boundary("write")
        self.disk.under_way.append(change)
        self.later(self.world.draw.uniform(0.0, self.scenario.slowest_commit), lambda: self._commit(steps, change))

    def begins(self, change: Change, steps: Steps) -> bool:
        """Whether this is a commit; if not, someone else goes on with the steps."""
        return True

    def _commit(self, steps: Steps, change: Change) -> None:
        try:
            self.disk.commit(change)
        except Unavailable as error:
            if not change.insists:
                self.disk.under_way.remove(change)
                self.work(steps, error)
            elif change.unwanted():
                self.disk.under_way.remove(change)
            else:
                self.later(DISK_AGAIN, lambda: self._commit(steps, change))
            return
        self.disk.under_way.remove(change)
        self.books.wrote(self, change)
        self.boundary("written")
        self.work(steps)

    # --- speaking ---

    def deliver(self, shell: Shell, command: Send) -> None:
        """What a machine says."""
        self.send(command)

    def send(self, command: Send) -> None:
        self.books.says(self, command)
        self.network.send(self.id, command)

    def say(self, to: str, message: Message, attachment: Buffer | None = None) -> None:
        self.send(Send(to, self.party.sign(message), attachment))

    def receive(self, sender: str, signed: Signed, attachment: Buffer | None) -> None:
        about = b""
        try:
            message = self.party.read(signed)
            about = subject_of(message)
            self.handle(Received(sender, message, signed, attachment))
        except SmpcError as error:
            self.send(Send(sender, self.party.refuse(error, error.phase or "", about)))

    def handle(self, event: Received) -> None:
        raise NotImplementedError

    def peer_up(self, peer: str) -> None:
        """A member has a new link."""

    # --- life and death ---

    def boundary(self, what: str) -> None:
        """A place where a node may be killed."""
        self.boundaries += 1
        crash = self.dies_at.pop(self.boundaries, None)
        if self.world.chance(self.scenario.crash_rate):
            crash = Crash(power=self.world.chance(0.3), seconds=self.world.draw.uniform(0.0, 2.0))
        if crash is not None and self.world.now < self.scenario.quiet:
            self.crash(power=crash.power, seconds=crash.seconds, where=what)
            raise Killed

    def crash(self, *, power: bool, seconds: float, where: str = "") -> None:
        if not self.up:
            return
        self.tell(f"! {'power cut' if power else 'killed'} {where and 'at ' + where} for {seconds:.3f} s")
        self.up, self.life = False, self.life + 1
        for change in self.disk.crash(self.world.draw, power=power):
            self.books.wrote(self, change)
        self.network.gone(self.id)
        life = self.life
        self.world.after(seconds, lambda: self.start() if self.life == life else None)

    def start(self) -> None:
        """From the disk, as after a power cut or on the first day."""
        if self.up or self.dead:
            return
        self.up, self.life = True, self.life + 1
        self.open()
        self.network.back(self.id)

    def open(self) -> None:
        raise NotImplementedError

    def die_for_good(self) -> None:
        self.tell("! is gone for good")
        self.up, self.dead, self.life = False, True, self.life + 1
        self.network.gone(self.id)

    def restore(self, backup: Backup, how: str) -> None:
        """Its disk is put back to an earlier time: with its spool, with the spool as it is now, or with none."""
        if self.up:
            self.crash(power=False, seconds=1.0, where="restore")
        self.tell(f"! {how} from a backup")
        self.disk.restore(backup, keeps_spool=how == "restore journal")
        if how == "restore without spool":
            self.disk.lose_spool()
        self.books.restored(self.id)


AttemptKey = tuple[bytes, int, int]


class Aggregator(Member):
    """As `nodes.aggregator.Aggregator`: a shell for each attempt, rebuilt from the journal at start."""

    def open(self) -> None:
        self.releases = Releases(lambda computation: decoded(self.disk.rows(ledger_of(computation))))
        self.rounds: dict[AttemptKey, Shell] = {}
        self.by_manifest: dict[bytes, AttemptKey] = {}
        streams = {stream: decoded(self.disk.rows(stream)) for stream in self.disk.streams("round/")}
        claims = [record for stream in self.disk.streams("ledger/") for record in decoded(self.disk.rows(stream))]
        for record in [*claims, *(record for records in streams.values() for record in records)]:
            if isinstance(record, Claim | Released):
                self.releases.learn(record)
        for stream, records in streams.items():
            if not any(isinstance(record, Aborted | Closed | Outdated) for record in records):
                run, round_number, attempt = stream.split("/")[1:]
                self._begin((bytes.fromhex(run), int(round_number), int(attempt)))

    def handle(self, event: Received) -> None:
        shell = self._round_of(event.message)
        if shell is None:
            return
        sealed = event.attachment
        if isinstance(event.message, VectorReport) and sealed is not None and self.world.chance(0.5):
            self._take_in(shell, event, memoryview(sealed))
            return
        shell.feed(event)
        self._index(shell)

    def _take_in(self, shell: Shell, event: Received, sealed: memoryview) -> None:
        """A long vector: the report is looked at, its bytes are opened as they come, then the machine is told of it."""
        report = event.message
        assert isinstance(report, VectorReport)
        opener = _aggregator(shell).expect(event.sender, report, sealed.nbytes)
        cut = self.world.draw.randrange(sealed.nbytes + 1)
        for piece in (sealed[:cut], sealed[cut:]):
            if opener is not None:
                opener(piece)
        taken = replace(event, attachment=opener)
        self.later(self.world.draw.uniform(0.0, 0.1), lambda: shell.feed(taken))

    def _round_of(self, message: Message) -> Shell | None:
        match message:
            case (
                PrekeyRequest(run=run, round=round_number, attempt=attempt)
                | AbortRequest(run=run, round=round_number, attempt=attempt)
            ):
                return self._begin((run, round_number, attempt))
            case ManifestOffer(manifest=signed):
                key = self.by_manifest.get(manifest_hash(signed))
                if key is None:
                    manifest = self.party.open(signed, Manifest, "coordinator", phase="manifest")
                    key = (manifest.run, manifest.round, manifest.attempt)
                if key not in self.rounds:
                    raise ManifestRefused("no prekey of this aggregator was asked for under this attempt")
                return self.rounds[key]
            case Refusal():
                return None
            case _:
                hash_ = getattr(message, "manifest_hash", None)
                if hash_ is None:
                    raise MalformedMessage(f"an aggregator takes no {type(message).__name__}")
                if self.by_manifest.get(hash_) not in self.rounds:
                    raise ManifestRefused("this aggregator has accepted no such manifest")
                return self.rounds[self.by_manifest[hash_]]

    def _begin(self, key: AttemptKey) -> Shell:
        if key not in self.rounds:
            if len(self.rounds) >= KEPT:
                self._retire()

            def build(records: Sequence[Record], bulk: bytearray | None) -> AggregatorRound:
                return AggregatorRound.restore(
                    self.party, Rules(self.scenario.k_min), key, records, bulk, coordinator=COORDINATOR,
                    entropy=self.entropy, releases=self.releases,
                )  # fmt: skip

            shell = Shell(self, f"round/{key[0].hex()}/{key[1]}/{key[2]}", build, lambda outcome: None)
            self.rounds[key] = shell
            shell.start()
            self._index(shell)
        return self.rounds[key]

    def _index(self, shell: Shell) -> None:
        machine = _aggregator(shell)
        if machine.manifest_hash and self.rounds.get(machine.key) is shell:
            self.by_manifest[machine.manifest_hash] = machine.key

    def _retire(self) -> None:
        for key, shell in list(self.rounds.items()):
            machine = _aggregator(shell)
            if machine.state in ENDED and shell.at_rest:
                shell.close()
                self.releases.withdraw(key)  # the ledger has its claim, if that stands
                self.by_manifest.pop(machine.manifest_hash, None)
                del self.rounds[key]


RoundKey = tuple[bytes, int]


class Owner(Member):
    """As `nodes.owner.Owner`: a shell for each round, and a ledger of what was given. It computes as slowly as the scenario
    says, or not at all."""

    def open(self) -> None:
        self.rounds: dict[RoundKey, Shell] = {}
        self.noted: set[bytes] = set()  # manifests whose contribution is durable
        for stream in self.disk.streams("round/"):
            run, round_number = stream.split("/")[1:]
            if not any(kind == "Closed" for kind, _ in self.disk.rows(stream)):
                self._begin((bytes.fromhex(run), int(round_number)))

    def peer_up(self, peer: str) -> None:
        for shell in list(self.rounds.values()):
            shell.feed(PeerUp(peer))

    def handle(self, event: Received) -> None:
        match event.message:
            case RoundOffer():
                self.later(self.world.draw.uniform(0.0, 0.05), lambda: self._offer(event))
            case _ if event.sender == COORDINATOR and not isinstance(event.message, RoundClosed | Refusal):
                raise MalformedMessage(f"an owner takes no {type(event.message).__name__}")
            case _:
                for shell in list(self.rounds.values()):
                    if self.meant_for(shell, event.message):
                        shell.feed(event)

    def meant_for(self, shell: Shell, message: Message) -> bool:
        hash_ = shell.machine.manifest_hash
        return bool(getattr(message, "manifest_hash", hash_) == hash_)

    def _offer(self, event: Received) -> None:
        assert isinstance(event.message, RoundOffer)
        manifest = codec.decode(event.message.manifest.body, Manifest)
        shell = self._begin((manifest.run, manifest.round))
        earlier = self._earlier(computation_of(manifest), (manifest.run, manifest.round))
        shell.machine.expected = self.scenario.expected(tuple(sorted(earlier, key=sorted)))
        shell.feed(event)
        if shell.machine.state is OwnerState.IDLE or (shell.machine.state is OwnerState.CLOSED and shell.at_rest):
            self._forget(shell)

    # --- what was given: as `nodes.owner_contributions` ---

    def _earlier(self, computation: bytes, but: RoundKey) -> set[frozenset[str]]:
        """The cohorts with which this owner has given this computation, or may still, in rounds under way."""
        given = {}
        for _, data in self.disk.rows(f"given/{computation.hex()}"):
            run, round_, cohort = msgspec.msgpack.decode(data, type=tuple[bytes, int, list[str]])
            given[run, round_] = frozenset(cohort)
        cohorts = {cohort for key, cohort in given.items() if key != but}
        for key, shell in self.rounds.items():
            over = shell.machine.state in (OwnerState.IDLE, OwnerState.REFUSED, OwnerState.CLOSED)
            manifest = shell.machine.manifest
            if key != but and not over and manifest and computation_of(manifest) == computation:
                cohorts.add(frozenset(manifest.cohort))
        return cohorts

    def deliver(self, shell: Shell, command: Send) -> None:
        """A report leaves once its contribution is durable, unless the round was closed by then."""
        if command.to == COORDINATOR:
            self.send(command)
        else:
            self.later(0.0, lambda: self.work(self._give(shell, command)))

    def _give(self, shell: Shell, command: Send) -> Steps:
        machine = shell.machine
        manifest, hash_ = machine.manifest, machine.manifest_hash
        if self.rounds.get(machine.key) is shell and hash_ not in self.noted:
            entry = msgspec.msgpack.encode((*machine.key, manifest.cohort))
            try:
                yield Change(f"given/{computation_of(manifest).hex()}", [("contribution", entry)], insists=False)
            except Unavailable:
                return  # the machine says it again
            self.noted.add(hash_)
        if self.rounds.get(machine.key) is shell:
            self.send(command)

    # --- rounds ---

    def _begin(self, key: RoundKey) -> Shell:
        if key not in self.rounds:
            rules = Rules(self.scenario.k_min, frozenset(self.scenario.aggregators))

            def build(records: Sequence[Record], bulk: bytearray | None) -> OwnerRound:
                kind = HastyOwner if self.id == self.scenario.hasty else OwnerRound
                return kind.restore(
                    self.party, rules, key, None, records, bulk, coordinator=COORDINATOR, entropy=self.entropy
                )

            shell = Shell(
                self, f"round/{key[0].hex()}/{key[1]}", build, lambda outcome: self._forget(shell),
                lambda model: self._compute(key, shell, model),
            )  # fmt: skip
            self.rounds[key] = shell
            shell.start()
        return self.rounds[key]

    def _forget(self, shell: Shell) -> None:
        shell.close()
        self.rounds.pop(shell.machine.key, None)

    def _compute(self, key: RoundKey, shell: Shell, model: Buffer) -> None:
        slow = self.scenario.slow.get((self.id, key), 0.0)
        if slow == float("inf"):
            self.tell("computes for ever")
            return
        seconds = slow or self.world.draw.uniform(0.05, self.scenario.computing)
        fails = self.world.chance(self.scenario.computing_fails)
        vector: np.ndarray[Any, np.dtype[np.float64]] = self.scenario.vectors(key[1])[self.id]
        error = Unavailable("the computation failed")
        self.later(seconds, lambda: shell.feed(ComputeFailed(error) if fails else Computed(vector)))


def _aggregator(shell: Shell) -> AggregatorRound:
    assert isinstance(shell.machine, AggregatorRound)
    return shell.machine
