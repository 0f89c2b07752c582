"""A coordinator and one aggregator in league try everything they can think of against two honest aggregators.

Random walks: several attempts at once, other cohorts, aborts in any combination, lists and votes that differ by receiver.
Whatever they do, the honest ones release at most one sum in the whole round, over at least k_min owners.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from rig import Draws, powers

from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import AggregatorRound, State
from smpc_fl.protocols.commands import Command, Compute, Computed, Received, Send
from smpc_fl.protocols.manifest import Expected, Rules, choose_numbers, manifest_hash, model_digest
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    AbortRequest,
    AttemptAborted,
    Endorsement,
    Entry,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    Manifest,
    ManifestOffer,
    Message,
    PartialSum,
    Prekey,
    PrekeyRequest,
    Receipt,
    RoundOffer,
    SeedReport,
    Signed,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.simulate import COORDINATOR, JOB, SUBJECT, federation
from smpc_fl.sealing import KeyPair
from smpc_fl.shares import report_id

OWNERS = ("alice", "bob", "carol", "dave", "erin")
HONEST, TRAITOR = ("aggregator-0", "aggregator-1"), "aggregator-2"
AGGREGATORS = (*HONEST, TRAITOR)
ATTEMPTS, K_MIN, NOW = 3, 3, 1000.0
PARTIES = federation(list(OWNERS), list(AGGREGATORS), Draws("conspiracy"))


class Conspiracy:
    """All that the two have collected: statements by kind, by what they are about, by who signed them."""

    def __init__(self, seed: int) -> None:
        self.draw, entropy = np.random.default_rng(seed), Draws(seed)
        self.run, self.vectors = entropy(16), powers(OWNERS)
        expected = Expected("train", JOB, 4, 1.0, 128, 1e-3, OWNERS, SUBJECT)
        self.honest = {
            (name, k): AggregatorRound(PARTIES[name], Rules(K_MIN), (self.run, 0, k), coordinator=COORDINATOR, entropy=entropy)
            for name in HONEST
            for k in range(ATTEMPTS)
        }  # fmt: skip
        self.owners = {
            name: OwnerRound(
                PARTIES[name], Rules(K_MIN, frozenset(AGGREGATORS)), (self.run, 0), expected,
                coordinator=COORDINATOR, entropy=entropy,
            )
            for name in OWNERS
        }  # fmt: skip
        self.key = KeyPair.generate(entropy).public
        self.said: dict[tuple[type, Any], dict[str, Signed]] = defaultdict(dict)
        self.manifests: list[tuple[Manifest, Signed]] = []
        self.released: dict[str, set[tuple[int, bytes]]] = defaultdict(set)
        for k in range(ATTEMPTS):
            self.said[Prekey, k][TRAITOR] = PARTIES[TRAITOR].sign(Prekey(self.run, 0, k, self.key))
            self.said[AttemptAborted, k][TRAITOR] = PARTIES[TRAITOR].sign(AttemptAborted(self.run, 0, k, ""))

    # --- carrying ---

    def tell(
        self, name: str, attempt: int, message: Message, sender: str = COORDINATOR, attachment: Any = None
    ) -> None:
        machine = self.honest[name, attempt]
        signed = PARTIES[sender].sign(message)
        self.collect(name, attempt, machine.receive(Received(sender, message, signed, attachment), NOW))

    def collect(self, name: str, attempt: int, commands: Iterable[Command]) -> None:
        for command in commands:
            if not isinstance(command, Send):
                continue
            message = codec.decode_message(command.signed.body)
            match message:
                case Prekey() | AttemptAborted():
                    self.said[type(message), attempt][name] = command.signed
                case Endorsement() | FrozenList() | Vote():
                    self.said[type(message), message.manifest_hash][name] = command.signed
                case PartialSum():
                    self.released[name].add((attempt, message.set_hash))
                case Receipt() if command.to in self.owners:
                    self.to_owner(command.to, name, message)
                case _:
                    pass

    def to_owner(self, owner: str, sender: str, message: Message) -> None:
        machine = self.owners[owner]
        queue = machine.receive(Received(sender, message, PARTIES[sender].sign(message), b""), NOW)
        while queue:
            command, *queue = queue
            if isinstance(command, Compute):
                queue += machine.receive(Computed(self.vectors[owner]), NOW)
            elif isinstance(command, Send) and command.to in AGGREGATORS and self.draw.random() < 0.97:
                said = codec.decode_message(command.signed.body)
                assert isinstance(said, SeedReport | VectorReport)
                if command.to == TRAITOR:
                    receipt = Receipt(said.manifest_hash, owner, report_id(said.commitments))
                    self.to_owner(owner, TRAITOR, receipt)
                else:
                    manifest = machine.manifest
                    assert manifest is not None
                    self.tell(command.to, manifest.attempt, said, owner, command.attachment)

    # --- what they can do ---

    def prekeys(self, k: int) -> None:
        for name in HONEST:
            self.tell(name, k, PrekeyRequest(self.run, 0, k))

    def manifest(self, k: int) -> None:
        if len(self.said[Prekey, k]) < len(AGGREGATORS):
            return
        cohort = sorted(self.draw.choice(OWNERS, size=self.draw.integers(3, 6), replace=False).tolist())
        carried = [self.said[AttemptAborted, j].get(a) for j in range(k) for a in AGGREGATORS]
        if k == 2 and self.draw.random() < 0.3:
            carried = carried[3:] * 2  # skip one
        numbers = choose_numbers(owners=5, clip=1.0, max_samples=128, k_min=3, tolerance=1e-3, ring_bits=None)
        party = PARTIES[COORDINATOR]
        manifest = Manifest(
            PROTOCOL_VERSION, party.federation, party.membership.roster_hash, self.run, 0, k, "train", COORDINATOR, self.key,
            cohort, [self.said[Prekey, k][a] for a in AGGREGATORS], 4, numbers.ring_bits, numbers.fractional_bits, 1.0, 128,
            K_MIN, NOW + 60 + self.draw.random(), JOB, SUBJECT, model_digest(b""), None, numbers.worst_error,
            [signed for signed in carried if signed is not None],
        )  # fmt: skip
        signed = party.sign(manifest)
        self.manifests.append((manifest, signed))
        hash_ = manifest_hash(signed)
        self.said[Endorsement, hash_][TRAITOR] = PARTIES[TRAITOR].sign(Endorsement(hash_))
        for name in HONEST:
            self.tell(name, k, ManifestOffer(signed))

    def offer(self, manifest: Manifest, signed: Signed, hash_: bytes) -> None:
        endorsements = self.said[Endorsement, hash_]
        for owner in manifest.cohort:
            if self.draw.random() < 0.95:
                offer = RoundOffer(signed, [endorsements[a] for a in AGGREGATORS if a in endorsements])
                self.to_owner(owner, COORDINATOR, offer)

    def freeze(self, manifest: Manifest, signed: Signed, hash_: bytes) -> None:
        for name in HONEST:
            if self.draw.random() < 0.8:
                self.tell(name, manifest.attempt, FreezeRequest(hash_))

    def lists(self, manifest: Manifest, signed: Signed, hash_: bytes) -> None:
        lists = self.said[FrozenList, hash_]
        cut = int(self.draw.random() < 0.2)
        for name in HONEST:
            entries: list[Entry] = []
            if lists:
                entries = codec.decode(lists[str(self.draw.choice(list(lists)))].body, FrozenList).entries
            cut ^= self.draw.random() < 0.1
            own = PARTIES[TRAITOR].sign(FrozenList(hash_, entries[cut:]))
            self.tell(name, manifest.attempt, FrozenLists(hash_, [*lists.values(), own]))

    def votes(self, manifest: Manifest, signed: Signed, hash_: bytes) -> None:
        votes = self.said[Vote, hash_]
        if not votes:
            return
        for name in HONEST:
            choice = codec.decode(votes[str(self.draw.choice(list(votes)))].body, Vote).choice
            choice = b"" if self.draw.random() < 0.05 else choice
            known = [vote for vote in votes.values() if self.draw.random() < 0.9]
            own = PARTIES[TRAITOR].sign(Vote(hash_, choice))
            self.tell(name, manifest.attempt, Votes(hash_, [*known, own]))

    def abort(self, k: int) -> None:
        for name in HONEST:
            if self.draw.random() < 0.7:
                self.tell(name, k, AbortRequest(self.run, 0, k))

    def walk(self, steps: int) -> None:
        """Mostly the way that leads to a release, and at any time something else."""
        way = [self.offer, self.freeze, self.lists, self.votes]
        gone: dict[bytes, int] = defaultdict(int)
        for _ in range(steps):
            k = int(self.draw.choice(ATTEMPTS, p=[0.4, 0.35, 0.25]))
            if not self.manifests or self.draw.random() < 0.25:
                self.prekeys(k)
                self.manifest(k)
            elif self.draw.random() < 0.15:
                self.abort(k)
            else:
                manifest, signed = self.manifests[int(self.draw.integers(len(self.manifests)))]
                hash_ = manifest_hash(signed)
                step = gone[hash_] % 4 if self.draw.random() < 0.8 else int(self.draw.integers(4))
                gone[hash_] += 1
                way[step](manifest, signed, hash_)

    def check(self) -> None:
        everything = set().union(*self.released.values())
        assert len(everything) <= 1, "two sums of one round were released"
        for (name, k), machine in self.honest.items():
            if (name, k) in {(name, k) for k, _ in self.released[name]}:
                assert machine.state is State.RELEASED
                assert machine._vote is not None
                assert len(machine._vote.agreed) >= K_MIN
                assert name not in self.said[AttemptAborted, k], "released, and signed an abort"


def walks() -> Counter[int]:
    """How many walks ended with a sum of each attempt."""
    attempts: Counter[int] = Counter()
    for seed in range(50):
        conspiracy = Conspiracy(seed)
        conspiracy.walk(60)
        conspiracy.check()
        attempts.update(attempt for attempt, _ in set().union(*conspiracy.released.values()))
    return attempts


def test_two_in_league_get_at_most_one_sum() -> None:
    attempts = walks()
    assert attempts[0] > 5, "the walks come far enough"
    assert attempts[1] + attempts[2] > 0, "also in later attempts"


def test_the_walks_find_a_rule_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the aborts in a manifest, they do get two sums."""
    monkeypatch.setattr("smpc_fl.protocols.manifest._check_aborts", lambda manifest, party: None)
    with pytest.raises(AssertionError, match="two sums"):
        walks()
