"""The manifest: how the coordinator makes it, and the rules by which every other node checks it.

There is no negotiation: a node takes the manifest as it is or refuses it with the reason, so there is nothing to downgrade.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import filterfalse
from typing import Literal

from smpc_fl.encryption import RESIDUES, Layout
from smpc_fl.errors import (
    AggregatorsNotPinned,
    BadSignature,
    CapacityExceeded,
    CohortTooSmall,
    ManifestRefused,
    PrecisionTooLow,
    SubtractionRefused,
    VersionMismatch,
)
from smpc_fl.fixed_point import (
    MOST_FRACTIONAL_BITS,
    FixedPoint,
    check_capacity,
    fewest_bits,
    largest_fractional_bits,
    worst_error,
)
from smpc_fl.hashing import digest
from smpc_fl.jobs import RingBits
from smpc_fl.privacy.mechanism import Mechanism, Noise
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.envelopes import check_key
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    AttemptAborted,
    Endorsement,
    Entry,
    Manifest,
    ManifestOffer,
    Message,
    Prekey,
    RoundOffer,
    Signed,
)
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.releases import isolates
from smpc_fl.ring import Ring, ring
from smpc_fl.shares import carrier

PHASE = "manifest"
Protection = Literal["shares", "ckks"]
"""How vectors are kept from the aggregators: additive shares, or homomorphic encryption."""
LONGEST_ROUND = 7 * 24 * 3600.0
"""Seconds that a deadline may lie ahead: a manifest does not hold a node's secrets for ever."""


def manifest_hash(signed: Signed) -> bytes:
    """The 32 bytes that everything in an attempt is bound to: over the coordinator's very bytes."""
    return _hash(signed.body, signed.sender)


@lru_cache(maxsize=4)
def _hash(body: bytes, sender: str) -> bytes:
    return digest("smpc-fl/1 manifest", sender.encode(), body)


def read(signed: Signed) -> Manifest:
    """The manifest in an envelope whose signature has been checked, or that is read back. Raises `MalformedMessage`.

    The last few are remembered: with thousands of owners the list of them takes milliseconds to read, and a machine reads
    it when it is offered and when it is kept."""
    return _read(signed.body, signed.sender)


@lru_cache(maxsize=4)
def _read(body: bytes, sender: str) -> Manifest:
    return decode(body, Manifest, peer=sender)


def subject_of(message: Message) -> bytes:
    """What a refusal of `message` is about: its manifest's hash, else its run, else nothing."""
    if isinstance(message, ManifestOffer | RoundOffer):
        return manifest_hash(message.manifest)
    subject: bytes = getattr(message, "manifest_hash", b"") or getattr(message, "run", b"")
    return subject


def set_hash(manifest: bytes, agreed: Sequence[Entry]) -> bytes:
    """hash(manifest ‖ S) over the sorted list, not an XOR of hashes, so that no other list can be made to match."""
    parts = [part for entry in sorted(agreed) for part in (entry.owner.encode(), entry.report_id)]
    return digest("smpc-fl/1 set", manifest, *parts)


def model_digest(model: bytes | bytearray | memoryview) -> bytes:
    """Over the model's float32 little-endian bytes; an aggregate has the empty model.

    The bytes go through SHA-256 first, for which processors have instructions: half the time of BLAKE2b."""
    return digest("smpc-fl/1 model", hashlib.sha256(model).digest())


@dataclass(frozen=True)
class Numbers:
    """How a secure vector is encoded, and what noise is added to the sum, as the manifest states it."""

    ring_bits: int
    fractional_bits: int
    worst_error: float
    noise: Noise | None = None

    @property
    def fixed_point(self) -> FixedPoint:
        return FixedPoint(ring(self.ring_bits), self.fractional_bits)


def stated_error(fractional_bits: int, *, owners: int, clip: float, max_samples: int, k_min: int) -> float:
    """Bound on |decoded mean - exact mean| in any slot, also where Σw is smallest: k_min owners of one row each.

    The weights rows / max_samples are rounded like every other slot, unless they are whole multiples of the scale's unit,
    which they are if max_samples is a power of two: then the divisor is exact and the bound smaller by 1 + clip."""
    exact = max_samples & (max_samples - 1) == 0 and max_samples.bit_length() - 1 <= fractional_bits
    return worst_error(fractional_bits, owners, k_min / max_samples, bound=0.0 if exact else clip)


def noise_error(
    noise: Noise | None,
    fractional_bits: int,
    *,
    slots: int,
    aggregators: int,
    clip: float,
    max_samples: int,
    k_min: int,
) -> float:
    """What the noise may add to `stated_error`, but for one chance in 2^40; infinity where it may drown Σw.

    max_samples = 1 says that every weight is 1: the divisor is then the number of owners, which has no noise."""
    if noise is None:
        return 0.0
    most = math.ldexp(noise.bound(slots, aggregators), -fractional_bits)
    least_weight = k_min / max_samples
    if max_samples == 1:
        return most / least_weight
    off = math.ldexp(most, -noise.tail)
    # As in `fixed_point.worst_error`: (S + e1) / (W + e2) - S / W = (e1 - (S / W) · e2) / (W + e2), |S| <= clip · W.
    return (most + clip * off) / (least_weight - off) if off < least_weight else math.inf


def choose_numbers(
    *,
    owners: int,
    clip: float,
    max_samples: int,
    k_min: int,
    tolerance: float,
    ring_bits: RingBits | None,
    update_bits: int | None = None,
    mechanism: Mechanism | None = None,
    aggregators: int = 0,
) -> Numbers:
    """The ring and scale for a round, and its noise where a `mechanism` asks for some of each of the `aggregators`.

    The ring is that of `ring_bits`; with "fit" the smallest of 8 to 64 bits whose finest scale keeps the tolerance; with
    None 32, or 64 where the tolerance needs it. The scale is the finest that fits the ring, or with `update_bits` that
    of ±max(clip, 1) in so many bits, and the ring then the smallest that holds the sum, unless a number is asked for.

    The tolerance is about rounding: noise is not held against it, but stated in the worst error.

    Raises `PrecisionTooLow` where a decoded mean could be off by more than the tolerance, and `CapacityExceeded` where
    the ring cannot hold the sum with its noise, each with the bits that would do."""

    def error(fractional_bits: int) -> float:
        return stated_error(fractional_bits, owners=owners, clip=clip, max_samples=max_samples, k_min=k_min)

    def drowns(fractional_bits: int) -> int:
        return 0 if mechanism is None else mechanism.bound(fractional_bits, aggregators)

    def finest(bits: int) -> int:
        return largest_fractional_bits(ring(bits), owners, clip, noise=drowns)

    def fitting(*sizes: int) -> list[tuple[int, int]]:
        found, why = [], None
        for bits in sizes:
            try:
                found.append((bits, finest(bits)))
            except CapacityExceeded as error:
                why = error if needed is None else CapacityExceeded(f"{error.message}: ring_bits={needed} would do")
        if why is not None and not found:
            raise why
        return found

    def numbers(bits: int, scale: int) -> Numbers:
        noise = None if mechanism is None else mechanism.noise(scale)
        added = noise_error(
            noise, scale, slots=mechanism.slots if mechanism else 0, aggregators=aggregators, clip=clip,
            max_samples=max_samples, k_min=k_min,
        )  # fmt: skip
        return Numbers(bits, scale, error(scale) + added, noise)

    # The coarsest scale that is precise enough, not above 1, where an owner's flag would vanish; and its ring.
    enough = next((f for f in range(MOST_FRACTIONAL_BITS + 1) if error(f) <= tolerance), None)
    try:
        needed = None if enough is None else fewest_bits(enough, owners, clip, noise=drowns(enough))
    except CapacityExceeded:
        needed = None
    span = math.frexp(math.nextafter(max(clip, 1.0), 0.0))[1] + 1  # the bits before the point, with the sign's
    if update_bits is not None:
        scale = min(update_bits - span, MOST_FRACTIONAL_BITS)
        bits = ring_bits if isinstance(ring_bits, int) else fewest_bits(scale, owners, clip, noise=drowns(scale))
        check_capacity(ring(bits), scale, owners, clip, noise=drowns(scale))
        choices = [(bits, scale)]
    elif ring_bits is None:
        choices = fitting(32, 64)
    else:
        bits = (needed or 64) if ring_bits == "fit" else ring_bits
        choices = fitting(bits)
    for bits, scale in choices:
        if error(scale) <= tolerance:
            return numbers(bits, scale)

    remedies = "a smaller clip or max_samples, or a larger tolerance"
    if enough is None or needed is None:
        bits, scale, remedy = 64, finest(64), f"use {remedies}"
    elif update_bits is not None:
        remedy = f"use update_bits={enough + span}, {remedies}"
    else:
        remedy = f"use ring_bits={needed} or more, {remedies}"
    raise PrecisionTooLow(
        f"with ring_bits={bits} and {scale} bits after the point a decoded mean could be off by {error(scale):.3g}, over "
        f"the job's tolerance of {tolerance:.3g}: {remedy}",
        phase=PHASE,
    )


@dataclass(frozen=True)
class Expected:
    """What an owner knows about a round before any manifest comes: the approved job, read by this owner itself.

    `cohort`: the owners that the researcher signed for; a training round may be over fewer (some are away, or revoked), an
    aggregate over no others: its weights were checked for all of them together. `earlier`: the cohorts of other rounds in
    which this owner has given the same computation on the same model and data (`releases.py`). `mechanism`: the noise that
    the job asks for."""

    purpose: str
    job_digest: bytes
    dimension: int
    clip: float
    max_samples: int
    tolerance: float
    cohort: tuple[str, ...]
    subject: bytes
    earlier: tuple[frozenset[str], ...] = ()
    mechanism: Mechanism | None = None


@dataclass(frozen=True)
class Rules:
    """A node's own policy. `aggregators`: the pinned set, or None to go by the roster (aggregators do). `retention`: seconds
    after a round's deadline until its secrets are erased, if nobody has ended it by then. `least_noise`: the smallest noise
    multiplier of a sum that this node has to do with; 0: also sums without noise. `protection`: the only one that this
    node takes part in."""

    k_min: int
    aggregators: frozenset[str] | None = None
    retention: float = 24 * 3600.0
    least_noise: float = 0.0
    protection: Protection = "shares"


def aggregator_ids(manifest: Manifest) -> list[str]:
    return [signed.sender for signed in manifest.aggregators]


def carrier_of(manifest: Manifest, owner: str) -> str:
    """The aggregator that `owner` sends its vector to."""
    if manifest.encryption:
        return manifest.aggregators[0].sender
    return carrier(owner, manifest.cohort, manifest.round, aggregator_ids(manifest))


def carried(manifest: Manifest) -> tuple[Ring, int]:
    """Over what an owner's vector is as it travels, and how long: of shares, or of residues of its ciphertexts."""
    if manifest.encryption:
        return RESIDUES, layout(manifest).words
    return ring(manifest.ring_bits), manifest.dimension


def layout(manifest: Manifest) -> Layout:
    """How vectors are encrypted."""
    return Layout(manifest.ring_bits, manifest.dimension, len(manifest.cohort))


def prekeys(manifest: Manifest, party: Party) -> dict[str, bytes]:
    """Each aggregator's prekey, its signature verified and bound to this (run, round, attempt)."""
    found: dict[str, bytes] = {}
    for signed in manifest.aggregators:
        prekey = party.open(signed, Prekey, "aggregator", phase=PHASE)
        if (prekey.run, prekey.round, prekey.attempt) != (manifest.run, manifest.round, manifest.attempt):
            raise ManifestRefused("a prekey belongs to another round or attempt", peer=signed.sender, phase=PHASE)
        check_key(prekey.public, signed.sender)
        found[signed.sender] = prekey.public
    return found


def check(signed: Signed, party: Party, rules: Rules, *, now: float) -> Manifest:
    """The manifest in an envelope, if it keeps every rule that does not need the job. Raises the rule's own error."""
    party.check(signed, "coordinator")
    manifest, who = read(signed), signed.sender

    def refuse(why: str) -> ManifestRefused:
        return ManifestRefused(why, peer=who, phase=PHASE)

    if manifest.version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the manifest is of protocol version {manifest.version}, this node speaks {PROTOCOL_VERSION}: "
            f"run the same release everywhere",
            peer=who,
            phase=PHASE,
        )
    if manifest.federation != party.federation or manifest.coordinator != who:
        raise refuse("the manifest is of another federation or coordinator")
    if manifest.roster_hash != party.membership.roster_hash:
        raise refuse("the manifest goes by another roster than this node: bring both to the newest signed version")
    cohort, aggregators = manifest.cohort, aggregator_ids(manifest)
    if not (_ascending(cohort) and _ascending(aggregators)):
        raise refuse("cohort and aggregators must be sorted, without doubles")
    members = party.membership.owner_ids
    if not members.issuperset(cohort):
        party.key_of(next(filterfalse(members.__contains__, cohort)), "owner")  # which says what is wrong with it
    if rules.aggregators is not None and frozenset(aggregators) != rules.aggregators:
        raise AggregatorsNotPinned(
            f"the manifest names the aggregators {', '.join(aggregators)}, this node has pinned "
            f"{', '.join(sorted(rules.aggregators))}: nothing is sent to others; change the pinned set in the "
            f"configuration if you trust the new one",
            peer=who,
            phase=PHASE,
        )
    _check_protection(manifest, rules)
    prekeys(manifest, party)
    check_key(manifest.coordinator_key, who)
    if manifest.k_min < rules.k_min or len(cohort) < manifest.k_min:
        raise CohortTooSmall(
            f"the manifest has k_min = {manifest.k_min} and a cohort of {len(cohort)}, this node's floor is "
            f"{rules.k_min}: add owners, or agree on a lower floor",
            peer=who,
            phase=PHASE,
        )
    if not now < manifest.deadline <= now + LONGEST_ROUND:
        raise refuse("the deadline has passed, or lies more than a week ahead: check the clocks")
    if not math.isfinite(manifest.clip):
        raise refuse("the clip is infinite: no sum of such updates has a bound")
    noise, slots = manifest.privacy, manifest.dimension
    if (noise.sigma if noise else 0) < rules.least_noise * (noise.sensitivity if noise else 1):
        raise refuse(
            f"this node takes part in no sum with less noise than {rules.least_noise:g} times an owner's clip: ask for "
            "it with privacy=, or for a change of this node's policy (least_noise)"
        )
    most = noise.bound(slots, len(aggregators)) if noise else 0
    check_capacity(ring(manifest.ring_bits), manifest.fractional_bits, len(cohort), manifest.clip, noise=most)
    stated = _rounding_error(manifest) + noise_error(
        noise, manifest.fractional_bits, slots=slots, aggregators=len(aggregators), clip=manifest.clip,
        max_samples=manifest.max_samples, k_min=manifest.k_min,
    )  # fmt: skip
    if manifest.worst_error < stated:
        raise refuse("the manifest states a smaller decoding error than its scale gives")
    _check_aborts(manifest, party)
    return manifest


def _check_protection(manifest: Manifest, rules: Rules) -> None:
    """No manifest leads a node off its road: a single aggregator may add ciphertexts, and gets no shares."""
    said: Protection = "ckks" if manifest.encryption else "shares"

    def refuse(why: str) -> ManifestRefused:
        return ManifestRefused(why, peer=manifest.coordinator, phase=PHASE)

    if said != rules.protection:
        raise refuse(
            f'the manifest says protection="{said}", this node takes part in "{rules.protection}" only: set `protection` '
            "alike in every node's policy"
        )
    many = len(manifest.aggregators)
    if (many == 1) != (said == "ckks") or len(manifest.encryption) not in (0, 32):
        raise refuse(
            f'protection="{said}" with {many} aggregators: shares need two or more, encryption one and the id of a key'
        )
    if said == "ckks" and manifest.privacy is not None:
        raise refuse("noise is added to shares: ask for it where several aggregators are, or for none")


def _rounding_error(manifest: Manifest) -> float:
    return stated_error(
        manifest.fractional_bits,
        owners=len(manifest.cohort),
        clip=manifest.clip,
        max_samples=manifest.max_samples,
        k_min=manifest.k_min,
    )


def _ascending(ids: Sequence[str]) -> bool:
    return all(map(operator.lt, ids, ids[1:]))


def _check_aborts(manifest: Manifest, party: Party) -> None:
    """A new attempt needs every aggregator's signed abort of *every* attempt before it: two sums never both exist.

    Those of the last attempt alone would not do: aggregators also sign an abort of an attempt that never began, so one
    could be skipped to get past one that was released."""
    found: list[tuple[int, str]] = []
    for signed in manifest.aborts:
        aborted = party.open(signed, AttemptAborted, "aggregator", phase=PHASE)
        if (aborted.run, aborted.round) != (manifest.run, manifest.round):
            raise ManifestRefused("an abort is of another round", peer=signed.sender, phase=PHASE)
        found.append((aborted.attempt, signed.sender))
    aggregators = aggregator_ids(manifest)
    wanted = ((attempt, id_) for attempt in range(manifest.attempt) for id_ in aggregators)
    if len(found) != manifest.attempt * len(aggregators) or any(a != b for a, b in zip(found, wanted, strict=True)):
        raise ManifestRefused(
            "a new attempt must carry the abort of every aggregator, sorted by id, for each attempt before it",
            peer=manifest.coordinator,
            phase=PHASE,
        )


def check_against_job(manifest: Manifest, expected: Expected) -> None:
    """An owner's further rules: the manifest must be the approved job's, in every number."""
    allowed = manifest.worst_error if manifest.privacy is None else _rounding_error(manifest)
    if allowed > expected.tolerance:
        raise PrecisionTooLow(
            f"the manifest allows a decoding error of {allowed:.3g}, the job {expected.tolerance:.3g}",
            peer=manifest.coordinator,
            phase=PHASE,
        )
    same, whole = tuple(manifest.cohort) == expected.cohort, manifest.purpose == "aggregate"
    fewer = len(manifest.cohort) < len(expected.cohort)
    if not same and ((whole and fewer) or not set(manifest.cohort) <= set(expected.cohort)):
        raise ManifestRefused(
            "the manifest's cohort is not the one that the researcher asked for", peer=manifest.coordinator, phase=PHASE
        )
    stated = (
        manifest.purpose, manifest.job_digest, manifest.subject, manifest.dimension, manifest.clip, manifest.max_samples,
        manifest.privacy,
    )  # fmt: skip
    mechanism = expected.mechanism
    approved = (
        expected.purpose, expected.job_digest, expected.subject, expected.dimension, expected.clip, expected.max_samples,
        mechanism.noise(manifest.fractional_bits) if mechanism else None,
    )  # fmt: skip
    names = ("purpose", "job digest", "subject", "dimension", "clip", "max_samples", "noise")
    for name, said, own in zip(names, stated, approved, strict=True):
        if said != own:
            raise ManifestRefused(
                f"the manifest's {name} is not that of the approved job", peer=manifest.coordinator, phase=PHASE
            )
    if isolates([set(manifest.cohort), *expected.earlier], manifest.k_min):
        raise SubtractionRefused(
            f"this owner has given the same computation on the same model before, with a cohort that differs from this one "
            f"by fewer than k_min = {manifest.k_min} owners: the sums could be subtracted. Ask for the same owners again",
            peer=manifest.coordinator,
            phase=PHASE,
        )


def check_endorsements(endorsements: Sequence[Signed], manifest: Manifest, hash_: bytes, party: Party) -> None:
    """An owner sends nothing before it holds every aggregator's signature on this manifest's hash."""
    for signed in endorsements:
        endorsed = party.open(signed, Endorsement, "aggregator", phase=PHASE)
        if endorsed.manifest_hash != hash_:
            raise ManifestRefused("an aggregator endorsed another manifest", peer=signed.sender, phase=PHASE)
    if sorted(signed.sender for signed in endorsements) != aggregator_ids(manifest):
        raise BadSignature(
            "the manifest is not endorsed by exactly its aggregators: no share leaves",
            peer=manifest.coordinator,
            phase=PHASE,
        )
