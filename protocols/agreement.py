"""What the aggregators' signed lists and votes say together, read by one of them: S, or what cannot be.

Nothing here is decided (`aggregator.py` does that, durably): statements are verified, bound to the manifest, and compared.
"""

from __future__ import annotations

from smpc_fl.errors import Equivocation, MalformedMessage
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.codec import expect
from smpc_fl.protocols.messages import AttemptAborted, Entry, FrozenList, FrozenLists, Manifest, Vote, Votes
from smpc_fl.protocols.party import Party


def complete(message: FrozenLists, party: Party, manifest: Manifest, hash_: bytes, own: list[Entry]) -> list[Entry]:
    """S, sorted: what is complete at every aggregator. `own`: the list of the one who asks.

    Raises `MalformedMessage` for lists that cannot be, and `Equivocation` for two where one may be."""
    lists: dict[str, set[Entry]] = {}
    for signed in message.lists:
        frozen = party.open(signed, FrozenList, "aggregator", phase="agree")
        if frozen.manifest_hash != hash_:
            raise MalformedMessage("a list is of another manifest", peer=signed.sender, phase="agree")
        owners = [entry.owner for entry in frozen.entries]
        if owners != sorted(set(owners)):
            raise MalformedMessage("a list is not sorted, or names an owner twice", peer=signed.sender, phase="agree")
        if not set(owners) <= set(manifest.cohort):
            raise MalformedMessage("a list names an owner outside the cohort", peer=signed.sender, phase="agree")
        if lists.setdefault(signed.sender, set(frozen.entries)) != set(frozen.entries):
            raise Equivocation("two different final lists", peer=signed.sender, phase="agree")
    if sorted(lists) != manifests.aggregator_ids(manifest):
        raise MalformedMessage("the lists of exactly all aggregators are needed", phase="agree")
    if lists[party.id] != set(own):
        raise Equivocation("a list was given out in this aggregator's name", phase="agree")
    return sorted(set.intersection(*lists.values()))


def choices(message: Votes, party: Party, manifest: Manifest, hash_: bytes, own: bytes | None) -> dict[str, bytes]:
    """What each aggregator is for, the one who asks included if it has voted (`own`); empty for an abort, by vote or by
    statement.

    Raises `MalformedMessage` for votes that cannot be, and `Equivocation` for two where one may be."""
    found: dict[str, bytes] = {} if own is None else {party.id: own}
    aborted: dict[str, bytes] = {}
    attempt = (manifest.run, manifest.round, manifest.attempt)
    for signed in message.votes:
        said = party.read(signed, "aggregator")
        if isinstance(said, AttemptAborted) and (said.run, said.round, said.attempt) == attempt:
            aborted[signed.sender] = b""  # also after a vote for S, if a peer aborted
            continue
        vote = expect(said, Vote, peer=signed.sender, phase="vote")
        if vote.manifest_hash != hash_:
            raise MalformedMessage("a vote is of another manifest", peer=signed.sender, phase="vote")
        if found.setdefault(signed.sender, vote.choice) != vote.choice:
            raise Equivocation("two different votes", peer=signed.sender, phase="vote")
    found |= aborted
    if not found.keys() <= set(manifests.aggregator_ids(manifest)):
        raise MalformedMessage("a vote of an aggregator outside this round", phase="vote")
    return found
