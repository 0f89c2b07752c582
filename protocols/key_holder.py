"""An owner's other part where vectors are encrypted: to decrypt the sum, once in an attempt, and nothing but the sum.

The aggregator has ciphertexts and no key; the coordinator asks one owner of S. What that owner can check, it does: that the
aggregator of the manifest has signed these very ciphertexts as the sum over S, that its own report is in S as it sent it, and
that S has k_min owners. It cannot see whose ciphertexts were added: an aggregator that lies about it has another sum
decrypted, for the coordinator (`docs/homomorphic.md`). So each owner decrypts one sum in an attempt, whatever was signed.
"""

from __future__ import annotations

import numpy as np

from smpc_fl.encryption import RESIDUES, Cipher, sum_digest
from smpc_fl.entropy import Entropy
from smpc_fl.errors import CohortTooSmall, Equivocation, MalformedMessage
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols import partial, vectors
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.messages import DecryptedSum, DecryptRequest, EncryptedSum, Entry, Manifest
from smpc_fl.protocols.party import Party
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair

PHASE = "decrypt"


def check(
    request: DecryptRequest, attachment: object, manifest: Manifest, hash_: bytes, own: Entry, party: Party, before: bytes
) -> tuple[bytes, RingArray]:  # fmt: skip
    """The digest of the ciphertexts that this owner is asked to decrypt, and these: residues. `own`: its report as the
    aggregator has receipted it; `before`: the digest of those that it has decrypted in this attempt, or nothing.

    Raises `MalformedMessage`, `CohortTooSmall` or `Equivocation`, also `BadSignature` and the roster's errors."""
    released = party.open(request.released, EncryptedSum, "aggregator", phase=PHASE)

    def refuse(why: str) -> MalformedMessage:
        return MalformedMessage(why, peer=manifest.coordinator, phase=PHASE)

    if request.released.sender not in manifests.aggregator_ids(manifest) or released.manifest_hash != hash_:
        raise refuse("what is to be decrypted was not released by this round's aggregator")
    owners = [entry.owner for entry in released.entries]
    if owners != sorted(set(owners)) or not set(owners) <= set(manifest.cohort) or own not in released.entries:
        raise refuse("the released sum is over owners outside the cohort, or without this owner's report")
    if len(owners) < manifest.k_min:
        raise CohortTooSmall(
            f"a sum over {len(owners)} owners is not decrypted, k_min is {manifest.k_min}", phase=PHASE
        )
    if before not in (b"", released.digest):
        raise Equivocation(
            "this owner has decrypted another sum in this attempt", peer=manifest.coordinator, phase=PHASE
        )
    n = manifests.layout(manifest).words
    if not isinstance(attachment, bytes | bytearray | memoryview) or memoryview(
        attachment
    ).nbytes != RESIDUES.packed_size(n):
        raise refuse(f"the ciphertexts of {manifest.dimension} slots are {RESIDUES.packed_size(n)} bytes long")
    words = np.empty(n, RESIDUES.dtype)
    RESIDUES.unpack_into(attachment, words)
    if sum_digest(words) != released.digest:
        raise refuse("these are not the ciphertexts that the aggregator has released")
    return released.digest, words


def answer(
    digest: bytes, words: RingArray, manifest: Manifest, hash_: bytes, party: Party, cipher: Cipher, entropy: Entropy
) -> Send:
    """The sum in the manifest's ring, sealed to the coordinator's key of this attempt. The same ciphertexts give the same
    sum. Raises `DecryptionFailed` for what is none."""
    of, n = ring(manifest.ring_bits), manifest.dimension
    total = manifests.layout(manifest).decrypt(words, cipher)
    ephemeral = KeyPair.generate(entropy)
    key = partial.to_coordinator(ephemeral, manifest, hash_, party, digest).decrypted_key()
    sealed = vectors.seal_sum(vectors.stream(key, hash_, of, n), of, total, [])
    message = DecryptedSum(hash_, digest, ephemeral.public)
    return Send(manifest.coordinator, party.sign(message), sealed, vectors.fragment_size(of))


def open_(
    message: DecryptedSum, sealed: Buffer, sender: str, manifest: Manifest, party: Party, key: KeyPair
) -> RingArray:
    """At the coordinator: the sum, ring[d], that owner `sender` has decrypted. Raises `DecryptionFailed`,
    `MalformedMessage`."""
    of, n = ring(manifest.ring_bits), manifest.dimension
    channel = partial.at_coordinator(message, party.key_of(sender, "owner"), party, key, message.digest)
    stream = vectors.stream(channel.decrypted_key(), message.manifest_hash, of, n)
    return vectors.open_vector(stream, of, n, sealed)
