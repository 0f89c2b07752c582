"""What an aggregator holds an owner's report against, before it takes it. Nothing here is kept or decided (`aggregator.py`)."""

from __future__ import annotations

from smpc_fl.errors import DecryptionFailed, MalformedMessage, UnknownMember
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.messages import Manifest, Receipt, SeedReport, VectorReport
from smpc_fl.protocols.party import Party
from smpc_fl.sealing import KeyPair
from smpc_fl.shares import report_id

Report = SeedReport | VectorReport
PHASE = "report"


def identify(owner: str, report: Report, manifest: Manifest) -> bytes:
    """The report's id, if it may be this owner's. Raises `UnknownMember` or `MalformedMessage`."""
    if owner not in manifest.cohort:
        raise UnknownMember("not in this round's cohort", peer=owner, phase=PHASE)
    if len(report.commitments) != len(manifest.aggregators):
        raise MalformedMessage("a report needs one commitment for each aggregator", peer=owner, phase=PHASE)
    return report_id(report.commitments)


def check(owner: str, report: Report, manifest: Manifest, hash_: bytes, party: Party) -> None:
    """Raises unless this owner's report of this kind is for this aggregator, and the vector's is complete elsewhere."""
    carries = manifests.carrier_of(manifest, owner) == party.id
    if carries != isinstance(report, VectorReport):
        raise MalformedMessage("this owner's vector goes to its carrier, and only there", peer=owner, phase=PHASE)
    if isinstance(report, VectorReport):
        _check_receipts(owner, report, manifest, hash_, party)


def _check_receipts(owner: str, report: VectorReport, manifest: Manifest, hash_: bytes, party: Party) -> None:
    """What the carrier acknowledges is complete everywhere: it wants every seed holder's receipt."""
    this = (hash_, owner, report_id(report.commitments))
    for signed in report.receipts:
        receipt = party.open(signed, Receipt, "aggregator", phase=PHASE)
        if (receipt.manifest_hash, receipt.owner, receipt.report_id) != this:
            raise MalformedMessage("a receipt is of another report", peer=owner, phase=PHASE)
    others = [a for a in manifests.aggregator_ids(manifest) if a != party.id]
    if sorted(signed.sender for signed in report.receipts) != others:
        raise MalformedMessage("the vector needs the receipt of every seed holder", peer=owner, phase=PHASE)


def check_commitment(owner: str, report: Report, manifest: Manifest, party: Party, found: bytes) -> None:
    """Raises `DecryptionFailed` unless `found`, made of what came, is what the owner has committed to."""
    if report.commitments[manifests.aggregator_ids(manifest).index(party.id)] != found:
        raise DecryptionFailed("a share does not match its commitment", peer=owner, phase=PHASE)


def channel(owner: str, report: Report, hash_: bytes, party: Party, prekey: KeyPair) -> Channel:
    """What opens the report's sealed parts."""
    return Channel(
        own=prekey,
        peer_public=report.ephemeral,
        sender=party.key_of(owner, "owner"),
        receiver=party.identity.public,
        manifest_hash=hash_,
        about=report_id(report.commitments),
    )
