"""Helper: an attacker that has recorded all traffic and then seizes the nodes: every long-term key, every file of every home.

What it tries: each 32 bytes on any disk that could be a key, as an X25519 key against every public key that was ever
announced, and as the key of each sealed message itself; the long-term keys, as they are and turned into X25519 keys; and
each journal opened as its node would open it, with the files of its spool."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nacl.bindings
from tap import Said, Wire

from smpc_fl.errors import SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.identity import Identity
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols import vectors
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.messages import Manifest, ManifestOffer, PartialSum, SeedReport, VectorReport
from smpc_fl.protocols.party import Party
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair, open_small
from smpc_fl.secret import Secret
from smpc_fl.shares import carrier, report_id

MARKS = (b"\xc4\x20", b"\x58\x20")
"""What stands before 32 bytes in msgpack, and in CBOR."""


def possible_keys(
    files: Mapping[Path, bytes], identities: Iterable[Identity], *, everywhere: bool = False
) -> set[bytes]:
    """32-byte strings that may be keys: long-term seeds, and what is marked as bytes in any file; or, `everywhere`, whatever
    stands at any place of any file."""
    found = set()
    for identity in identities:
        seed = identity.seed.reveal()
        pair = nacl.bindings.crypto_sign_seed_keypair(seed)[1]
        found |= {seed, nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(pair)}
    for data in files.values():
        for mark in MARKS:
            at = data.find(mark)
            while at >= 0:
                found.add(data[at + 2 : at + 34])
                at = data.find(mark, at + 1)
        if everywhere:
            found |= {data[at : at + 32] for at in range(len(data) - 31)}
    return {key for key in found if len(key) == 32 and len(set(key)) > 8}  # random bytes are not a few, repeated


@dataclass
class Opened:
    """What was decrypted: {(round's hash, sender, receiver): what}."""

    seeds: dict[tuple[bytes, str, str], bytes] = field(default_factory=dict)
    blinders: dict[tuple[bytes, str, str], bytes] = field(default_factory=dict)
    vectors: dict[tuple[bytes, str, str], RingArray] = field(default_factory=dict)
    partial_sums: dict[tuple[bytes, str, str], RingArray] = field(default_factory=dict)
    spooled: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        small = sum(map(len, (*self.seeds.values(), *self.blinders.values())))
        return small + sum(words.nbytes for words in (*self.vectors.values(), *self.partial_sums.values()))


class Attacker:
    """`party`: any member's view of the roster. Nothing of it is secret."""

    def __init__(self, party: Party, wires: Iterable[Wire]) -> None:
        self.party = party
        self.passed: list[tuple[str, str, Said]] = []
        for wire in wires:
            dialler = wire.dialler
            self.passed += [(dialler, wire.listener, said) for said in wire.said(up=True)]
            self.passed += [(wire.listener, dialler, said) for said in wire.said(up=False)]
        self.manifests: dict[bytes, Manifest] = {}
        for _, _, said in self.passed:
            if isinstance(said.message, ManifestOffer):
                self.manifests[manifests.manifest_hash(said.message.manifest)] = manifests.read(said.message.manifest)

    def open(self, keys: set[bytes]) -> Opened:
        """Everything that these keys open of the traffic."""
        pairs = {pair.public: pair for pair in map(KeyPair.from_private, map(Secret, keys))}
        opened = Opened()
        for sender, receiver, said in self.passed:
            message = said.message
            if not isinstance(message, SeedReport | VectorReport | PartialSum):
                continue
            place = message.manifest_hash, sender, receiver
            manifest = self.manifests[message.manifest_hash]
            if isinstance(message, PartialSum):
                about, theirs = message.set_hash, manifest.coordinator_key
            else:
                about = report_id(message.commitments)
                theirs = manifests.prekeys(manifest, self.party)[receiver]
            channels = list(self._channels(pairs, place, message.ephemeral, theirs, about))
            of, n = ring(manifest.ring_bits), manifest.dimension
            match message:
                case SeedReport(sealed=sealed):
                    for found in self._small(channels, "owner>aggregator seed", sealed, keys):
                        opened.seeds[place], opened.blinders[place] = found[:32], found[32:]
                case VectorReport(sealed=sealed):
                    for found in self._small(channels, "owner>aggregator blinder", sealed, keys):
                        opened.blinders[place] = found
                    ways = {channel.vector_key() for channel in channels} | keys
                    for words in self._stream(ways, message.manifest_hash, of, n, said.attachment):
                        opened.vectors[place] = words
                case PartialSum():
                    ways = {channel.partial_key() for channel in channels} | keys
                    for words in self._stream(ways, message.manifest_hash, of, n, said.attachment):
                        opened.partial_sums[place] = words
        return opened

    def _channels(
        self,
        pairs: Mapping[bytes, KeyPair],
        place: tuple[bytes, str, str],
        ephemeral: bytes,
        theirs: bytes,
        about: bytes,
    ) -> Iterator[Channel]:
        hash_, sender, receiver = place
        for own, other in ((ephemeral, theirs), (theirs, ephemeral)):
            if own in pairs:
                yield Channel(pairs[own], other, self.party.key_of(sender), self.party.key_of(receiver), hash_, about)

    def _small(self, channels: list[Channel], kind: str, sealed: bytes, keys: set[bytes]) -> Iterator[bytes]:
        for key in {channel._key(kind) for channel in channels} | keys:
            try:
                yield open_small(key, sealed)
            except SmpcError:
                continue

    def _stream(self, keys: set[bytes], hash_: bytes, of: Any, n: int, sealed: Buffer) -> Iterator[RingArray]:
        for key in keys:
            try:
                yield vectors.open_vector(vectors.stream(key, hash_, of, n), of, n, sealed)
            except SmpcError:
                continue

    def rebuild(self, opened: Opened) -> dict[tuple[bytes, str], RingArray]:
        """The encoded update of every (round, owner) all of whose shares were opened."""
        from smpc_fl.shares import Context, stream

        found = {}
        for (hash_, owner, to), vector in opened.vectors.items():
            manifest = self.manifests[hash_]
            of, names = ring(manifest.ring_bits), manifests.aggregator_ids(manifest)
            assert carrier(owner, manifest.cohort, manifest.round, names) == to
            seeds = {a: opened.seeds.get((hash_, owner, a)) for a in names if a != to}
            if all(seeds.values()):
                total = vector.copy()
                for name, seed in seeds.items():
                    assert seed is not None
                    of.add_into(total, stream(seed, Context(hash_, owner), name).expand(of, total.size))
                found[hash_, owner] = total
        return found


def spooled(files: Mapping[Path, bytes], copy: Path) -> list[str]:
    """The streams of all journals that have a vector in their spool which opens."""
    shutil.rmtree(copy, ignore_errors=True)
    found, common = [], Path(*_common(files))
    for path, data in files.items():
        target = copy / path.relative_to(common)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for path in copy.rglob("journal.db"):
        with Journal.open(path) as journal:
            for stream in journal.streams("round/"):
                try:
                    if journal.read_bulk(stream):
                        found.append(f"{path.parent.parent.name}: {stream}")
                except SmpcError:
                    continue
    return found


def _common(files: Mapping[Path, bytes]) -> list[str]:
    parts = [path.parts for path in files]
    return [each[0] for each in zip(*parts, strict=False) if len(set(each)) == 1]
