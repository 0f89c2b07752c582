"""What an observer who sees everything writes down: every message as it is said, every record as it becomes durable.

`invariants` reads these books after every step; nothing that a node does depends on them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import invariants
from disk import Change, decoded
from toy_crypto import SEALED

from smpc_fl.errors import MalformedMessage
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.manifest import manifest_hash
from smpc_fl.protocols.messages import (
    AttemptAborted,
    Endorsement,
    FrozenList,
    Manifest,
    ManifestOffer,
    Message,
    PartialSum,
    Receipt,
    RoundOffer,
    Vote,
)
from smpc_fl.protocols.records import Aborted, Accepted, Opened, Released, Reporting, Voted
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import report_id

if TYPE_CHECKING:
    from driving import Ended
    from members import Member
    from scenario import Scenario
    from world import World

Attempt = tuple[bytes, int, int]


class Books:
    """Keys: `hash` is a manifest's; `Attempt` is (run, round, attempt)."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world, self.scenario = world, scenario
        self.manifests: dict[bytes, Manifest] = {}
        self.endorsed: dict[tuple[Attempt, str], bytes] = {}
        self.receipts: dict[tuple[bytes, str], dict[str, bytes]] = defaultdict(dict)  # (hash, owner) -> by aggregator
        self.lists: dict[tuple[bytes, str], FrozenList] = {}  # (hash, aggregator)
        self.votes: dict[tuple[bytes, str], bytes] = {}
        self.sets: dict[bytes, frozenset[str]] = {}  # set hash -> S
        self.reports: dict[
            tuple[bytes, str], tuple[bytes, bytes]
        ] = {}  # (hash, owner) -> (report id, of the vector's bytes)
        self.secrets: dict[bytes, object] = {}  # seed, blinder or key -> the report that it is of
        self.partials: dict[tuple[bytes, int], dict[tuple[int, bytes], set[str]]] = defaultdict(
            lambda: defaultdict(set)
        )
        self.ends: dict[Attempt, dict[str, str]] = defaultdict(dict)  # by aggregator: Released or Aborted, durably
        self.attempts: list[Ended] = []
        self.put_back: set[str] = set()
        self.said: Counter[str] = Counter()
        self.opened: dict[bytes, KeyPair] = {}  # the coordinator's round keys, by public half
        self.sums: dict[tuple[bytes, bytes, str], bytes] = {}  # (hash, set hash, aggregator) -> its words
        self.noise: dict[tuple[bytes, str], list[int]] = {}  # (set hash, aggregator) -> what it is to add
        SEALED.clear()

    # --- what happens ---

    def says(self, member: Member, command: Send) -> None:
        try:
            message = codec.decode_message(command.signed.body)
        except MalformedMessage:
            return  # a lie that nobody will read
        self.said[type(message).__name__] += 1
        match message:
            case ManifestOffer() | RoundOffer():
                self._learn(message.manifest)
        invariants.of_a_message(self, member, command, message)
        self._note(member.id, message, command.attachment)

    def lies(self, message: Message) -> None:
        """What a coordinator says that is not honest is none of its machine's words: only what others make of it counts."""
        if isinstance(message, ManifestOffer | RoundOffer):
            self._learn(message.manifest)

    def _learn(self, signed: Any) -> None:
        self.manifests[manifest_hash(signed)] = codec.decode(signed.body, Manifest)

    def _note(self, by: str, message: Message, attachment: Buffer | None) -> None:
        match message:
            case Endorsement(manifest_hash=hash_):
                self.endorsed[self.attempt_of(hash_), by] = hash_
            case Receipt(manifest_hash=hash_, owner=owner, report_id=id_):
                self.receipts[hash_, owner][by] = id_
            case FrozenList(manifest_hash=hash_):
                self.lists[hash_, by] = message
            case Vote(manifest_hash=hash_, choice=choice):
                self.votes[hash_, by] = choice
            case PartialSum(manifest_hash=hash_, set_hash=set_hash):
                run, round_, attempt = self.attempt_of(hash_)
                self.partials[run, round_][attempt, set_hash].add(by)
                invariants.of_a_release(self, (run, round_, attempt), set_hash)
            case AttemptAborted():
                pass

    def wrote(self, member: Member, change: Change) -> None:
        """A change is durable."""
        if member.id == COORDINATOR:
            for record in decoded(change.rows):
                if isinstance(record, Opened):
                    key = KeyPair.from_private(Secret(record.private))
                    self.opened[key.public] = key
        else:
            records = decoded(change.rows)
            last = next((record for record in reversed(records) if isinstance(record, Reporting | Accepted)), None)
            for record in records:
                match record:
                    case Voted(choice=choice, agreed=agreed) if choice:
                        self.sets[choice] = frozenset(entry.owner for entry in agreed)
                    case Released() | Aborted():
                        self.ends[_attempt(change.stream)][member.id] = type(record).__name__
                        invariants.of_an_end(self, _attempt(change.stream))
                    case Reporting():
                        invariants.fresh_secrets(self, member, record)
                        if record is last:  # what the same commit overtakes never has its vector on the disk
                            invariants.same_integers(self, member, change, record)
        invariants.of_a_disk(self, member, change.stream)

    def computes(self, member: Member, machine: Any, model: Buffer) -> None:
        invariants.right_model(self, member, machine, model)

    def ended(self, ended: Ended, machine: Any) -> None:
        self.attempts.append(ended)
        invariants.of_an_outcome(self, ended, machine)

    def restored(self, id_: str) -> None:
        """From now on this node does not know what it said: what it contradicts is not its fault."""
        self.put_back.add(id_)

    # --- what can be looked up ---

    def attempt_of(self, hash_: bytes) -> Attempt:
        manifest = self.manifests[hash_]
        return manifest.run, manifest.round, manifest.attempt

    @property
    def rolled_back(self) -> bool:
        """Whether any aggregator was put back to an earlier time."""
        return any(id_ in self.scenario.aggregators for id_ in self.put_back)


def vector_digest(attachment: Buffer | None) -> bytes:
    return hashlib.blake2b(bytes(attachment or b""), digest_size=16).digest()


def id_of(commitments: list[bytes]) -> bytes:
    return report_id(commitments)


def _attempt(stream: str) -> Attempt:
    _, run, round_, attempt = stream.split("/")
    return bytes.fromhex(run), int(round_), int(attempt)
