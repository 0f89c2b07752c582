"""What the aggregators' signed lists and votes say together, read by one of them: S, what cannot be, and what speaks
against a release.

Nothing here is decided (`aggregator.py` does that, durably): statements are verified, bound to the manifest, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from smpc_fl.errors import (
    CohortTooSmall,
    Equivocation,
    MalformedMessage,
    RolledBack,
    RoundAborted,
    SmpcError,
    SubtractionRefused,
)
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.codec import expect
from smpc_fl.protocols.messages import AttemptAborted, Entry, FrozenList, FrozenLists, Manifest, Vote, Votes
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.releases import isolates


@dataclass(frozen=True)
class Agreed:
    """`entries`: S, sorted, what is complete at every aggregator; `releases`: how many sums each says it has voted to
    release."""

    entries: list[Entry]
    releases: Mapping[str, int]


def complete(message: FrozenLists, party: Party, manifest: Manifest, hash_: bytes, own: list[Entry] | None) -> Agreed:
    """What all lists have in common. `own`: the list of the one who asks, None if it has none.

    Raises `MalformedMessage` for lists that cannot be, `Equivocation` for two where one may be, and `RolledBack` for one
    that the asking node has signed and does not know."""
    lists: dict[str, set[Entry]] = {}
    releases: dict[str, int] = {}
    for signed in message.lists:
        frozen = party.open(signed, FrozenList, "aggregator", phase="agree")
        if frozen.manifest_hash != hash_:
            raise MalformedMessage("a list is of another manifest", peer=signed.sender, phase="agree")
        owners = [entry.owner for entry in frozen.entries]
        if owners != sorted(set(owners)):
            raise MalformedMessage("a list is not sorted, or names an owner twice", peer=signed.sender, phase="agree")
        if not set(owners) <= set(manifest.cohort):
            raise MalformedMessage("a list names an owner outside the cohort", peer=signed.sender, phase="agree")
        if signed.sender == party.id and frozen.entries != own:
            raise RolledBack("a list that this aggregator has signed is not in its journal", phase="agree")
        if lists.setdefault(signed.sender, set(frozen.entries)) != set(frozen.entries):
            raise Equivocation("two different final lists", peer=signed.sender, phase="agree")
        releases[signed.sender] = frozen.releases
    if sorted(lists) != manifests.aggregator_ids(manifest):
        raise MalformedMessage("the lists of exactly all aggregators are needed", phase="agree")
    return Agreed(sorted(set.intersection(*lists.values())), releases)


def choices(message: Votes, party: Party, manifest: Manifest, hash_: bytes, own: bytes | None) -> dict[str, bytes]:
    """What each aggregator is for, the one who asks included if it has voted (`own`); empty for an abort, by vote or by
    statement.

    Raises `MalformedMessage` for votes that cannot be, `Equivocation` for two where one may be, and `RolledBack` for one, or
    an abort, that the asking node has signed and does not know."""
    found: dict[str, bytes] = {} if own is None else {party.id: own}
    aborted: dict[str, bytes] = {}
    attempt = (manifest.run, manifest.round, manifest.attempt)
    for signed in message.votes:
        said = party.read(signed, "aggregator")
        if isinstance(said, AttemptAborted) and (said.run, said.round, said.attempt) == attempt:
            if signed.sender == party.id:
                raise RolledBack("an abort that this aggregator has signed is not in its journal", phase="vote")
            aborted[signed.sender] = b""  # also after a vote for S, if a peer aborted
            continue
        vote = expect(said, Vote, peer=signed.sender, phase="vote")
        if vote.manifest_hash != hash_:
            raise MalformedMessage("a vote is of another manifest", peer=signed.sender, phase="vote")
        if signed.sender == party.id and vote.choice != own:
            raise RolledBack("a vote that this aggregator has signed is not in its journal", phase="vote")
        if found.setdefault(signed.sender, vote.choice) != vote.choice:
            raise Equivocation("two different votes", peer=signed.sender, phase="vote")
    found |= aborted
    if not found.keys() <= set(manifests.aggregator_ids(manifest)):
        raise MalformedMessage("a vote of an aggregator outside this round", phase="vote")
    return found


def against(message: Votes, party: Party) -> str:
    """Who is for an abort, and why, of statements that `choices` has read: one sentence for people."""
    for signed in message.votes:
        said = party.read(signed)
        if isinstance(said, AttemptAborted) or (isinstance(said, Vote) and said.choice == b""):
            return f"{signed.sender} is for an abort: {said.reason}"
    return "this aggregator voted to abort"


# --- why a sum over S may not be released ---


def too_few(agreed: Agreed, manifest: Manifest) -> SmpcError | None:
    found = len(agreed.entries)
    return CohortTooSmall(f"{found} complete reports, k_min is {manifest.k_min}") if found < manifest.k_min else None


def dropped(agreed: Agreed, carried: Set[str]) -> SmpcError | None:
    """`carried`: whose vectors are in the sum already. Every seed holder had receipted their reports before: one of them
    has lost what it had acknowledged, or lies."""
    lost = carried - {entry.owner for entry in agreed.entries}
    if not lost:
        return None
    return RoundAborted(f"reports that were complete everywhere are not in the agreed set: {', '.join(sorted(lost))}")


def forgotten(agreed: Agreed, known: Mapping[str, int]) -> SmpcError | None:
    """`known`: how many sums each had voted to release before this attempt could have a list of it."""
    for peer, number in sorted(agreed.releases.items()):
        if number < known[peer]:
            return RolledBack(
                f"{peer} says that it has voted to release {number} sums, and it did for {known[peer]}: it was restored from "
                f"an older copy of its disk. Give it a new key, which makes it a new member, before it goes on"
            )
    return None


def subtractable(agreed: Agreed, others: Sequence[Set[str]], manifest: Manifest) -> SmpcError | None:
    """`others`: the sets over which the same computation on the same model was, or may still be, summed."""
    if not isolates([{entry.owner for entry in agreed.entries}, *others], manifest.k_min):
        return None
    return SubtractionRefused(
        f"this sum could be subtracted from another over the same computation and model, down to fewer than k_min = "
        f"{manifest.k_min} owners: ask for the same owners again, or for another model"
    )
