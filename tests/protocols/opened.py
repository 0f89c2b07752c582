"""What the members of a recorded round could open, each with the keys that it had: the sealed vectors and partial sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rig import Rig

from smpc_fl.protocols import codec, vectors
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.manifest import manifest_hash
from smpc_fl.protocols.messages import Manifest, PartialSum, VectorReport
from smpc_fl.protocols.records import Accepted, Opened, Prepared, Reporting
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import Context, stream


def elements(rig: Rig, words: RingArray) -> list[int]:
    """The elements, without what arithmetic has left above them."""
    return [int(word) % (1 << rig.plan.numbers.ring_bits) for word in words]


def carried(rig: Rig, aggregator: str) -> Iterator[tuple[str, RingArray]]:
    """(owner, its vector), as this aggregator opened those that came to it, in the last attempt."""
    of, n, hash_ = ring(rig.plan.numbers.ring_bits), rig.plan.dimension, rig.coordinator.manifest_hash
    *_, prepared = (record for record in rig.written[aggregator] if isinstance(record, Prepared))
    for event in rig.received[aggregator]:
        report = event.message
        if isinstance(report, VectorReport) and report.manifest_hash == hash_:
            channel = Channel(
                KeyPair.from_private(Secret(prepared.private)), report.ephemeral, rig.parties[event.sender].identity.public,
                rig.parties[aggregator].identity.public, hash_, b"",
            )  # fmt: skip
            sealed = vectors.stream(channel.vector_key(), hash_, of, n)
            yield event.sender, vectors.open_vector(sealed, of, n, event.attachment)


def partial_sums(rig: Rig) -> dict[str, RingArray]:
    """Every aggregator's partial sum, as the coordinator opened it."""
    of, n, hash_ = ring(rig.plan.numbers.ring_bits), rig.plan.dimension, rig.coordinator.manifest_hash
    *_, opened = (record for record in rig.written[COORDINATOR] if isinstance(record, Opened))
    found = {}
    for event in rig.received[COORDINATOR]:
        message = event.message
        if isinstance(message, PartialSum) and message.manifest_hash == hash_:
            channel = Channel(
                KeyPair.from_private(Secret(opened.private)), message.ephemeral, rig.parties[event.sender].identity.public,
                rig.parties[COORDINATOR].identity.public, hash_, message.set_hash,
            )  # fmt: skip
            sealed = vectors.stream(channel.partial_key(), hash_, of, n)
            found[event.sender] = vectors.open_vector(sealed, of, n, event.attachment)
    return found


def shared(rig: Rig, owner: str) -> list[list[int]]:
    """The elements that each report of an owner shares, read back from what it kept: the sealed vector, and the seeds."""
    of, n = ring(rig.plan.numbers.ring_bits), rig.plan.dimension
    found, hash_, bulks = [], b"", {id(record): bulk for record, bulk in rig.bulks[owner]}
    for record in rig.written[owner]:
        if isinstance(record, Accepted):
            codec.decode(record.manifest.body, Manifest)
            hash_ = manifest_hash(record.manifest)
        if isinstance(record, Reporting) and id(record) in bulks:
            total = vectors.open_vector(
                vectors.stream(record.vector_key, hash_, of, n), of, n, bulks[id(record)]
            ).copy()
            for aggregator, seed in record.seeds.items():
                total += stream(seed, Context(hash_, owner), aggregator).expand(of, n)
            found.append(elements(rig, total))
    return found


def encoded(rig: Rig, owner: str) -> list[int]:
    """The elements that an owner's vector is encoded as."""
    return elements(rig, rig.plan.numbers.fixed_point.encode(np.asarray(rig.vectors[owner])))


def key_pair(record: Prepared | Opened) -> KeyPair:
    return KeyPair.from_private(Secret(record.private))
