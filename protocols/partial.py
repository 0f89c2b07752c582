"""A partial sum on its way to the coordinator: what an aggregator seals at the release, and what the coordinator opens.

Sealed to the coordinator's key of this attempt under a fresh ephemeral key of the aggregator's, bound to the manifest and S.
"""

from __future__ import annotations

from collections.abc import Sequence

from smpc_fl.encryption import sum_digest
from smpc_fl.entropy import Entropy
from smpc_fl.errors import MalformedMessage
from smpc_fl.hashing import Buffer, derive_key
from smpc_fl.identity import PublicIdentity
from smpc_fl.prg import Prg
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.privacy.mechanism import Noise
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols import vectors
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.messages import DecryptedSum, EncryptedSum, Entry, Manifest, PartialSum
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.vectors import Parallel
from smpc_fl.ring import RingArray
from smpc_fl.sealing import KeyPair


def seal(
    total: RingArray | None,
    streams: Sequence[Prg],
    choice: bytes,
    agreed: Sequence[Entry],
    manifest: Manifest,
    hash_: bytes,
    party: Party,
    *,
    secret: bytes,
    entropy: Entropy,
    parallel: Parallel,
) -> Send:
    """The message with Σ of the vectors (`total`, ring[d]; None where this aggregator carries none) and of the streams
    of the seeds over S, of which `choice` is the hash, and with the noise that the manifest asks for. `total` is used up.
    Where vectors are encrypted it is an `EncryptedSum`, which says itself what it is over (`agreed`).

    `secret`: 32 bytes of this attempt that were durable before any vote. The noise follows from them, the manifest and S, so
    that a sum which is sealed again, after a crash as well, has the same noise: of two, the mean would have less."""
    of, n = manifests.carried(manifest)
    words = total if total is not None else of.zeros(n)
    ephemeral = KeyPair.generate(entropy)
    channel = to_coordinator(ephemeral, manifest, hash_, party, choice)
    sealed = vectors.seal_sum(
        vectors.stream(channel.partial_key(), hash_, of, n), of, words, streams, parallel,
        _noise(manifest.privacy, secret, hash_, choice),
    )  # fmt: skip
    message: PartialSum | EncryptedSum = PartialSum(hash_, choice, ephemeral.public)
    if manifest.encryption:
        message = EncryptedSum(hash_, list(agreed), sum_digest(words), ephemeral.public)
    return Send(manifest.coordinator, party.sign(message), sealed, vectors.fragment_size(of))


def _noise(noise: Noise | None, secret: bytes, hash_: bytes, choice: bytes) -> DiscreteGaussian | None:
    if noise is None:
        return None
    return DiscreteGaussian(noise.sigma, derive_key("smpc-fl/1 noise", secret, hash_, choice))


def open_(
    message: PartialSum | EncryptedSum, sealed: Buffer, sender: str, manifest: Manifest, party: Party, key: KeyPair
) -> RingArray:
    """The sum, ring[d] or residues, that `sender` has sealed to the coordinator's `key`. Raises `DecryptionFailed`,
    `MalformedMessage`, also for ciphertexts that are not those that it names."""
    of, n = manifests.carried(manifest)
    channel = at_coordinator(message, party.key_of(sender, "aggregator"), party, key, set_hash(message))
    stream = vectors.stream(channel.partial_key(), message.manifest_hash, of, n)
    words = vectors.open_vector(stream, of, n, sealed)
    if isinstance(message, EncryptedSum) and sum_digest(words) != message.digest:
        raise MalformedMessage("a sum of ciphertexts is not the one that its aggregator names", peer=sender)
    return words


def set_hash(message: PartialSum | EncryptedSum) -> bytes:
    """What the sum is over, as votes say it."""
    if isinstance(message, PartialSum):
        return message.set_hash
    return manifests.set_hash(message.manifest_hash, message.entries)


def to_coordinator(ephemeral: KeyPair, manifest: Manifest, hash_: bytes, party: Party, about: bytes) -> Channel:
    """From this member to the coordinator's key of the attempt."""
    return Channel(
        own=ephemeral,
        peer_public=manifest.coordinator_key,
        sender=party.identity.public,
        receiver=party.key_of(manifest.coordinator, "coordinator"),
        manifest_hash=hash_,
        about=about,
    )


def at_coordinator(
    message: PartialSum | EncryptedSum | DecryptedSum, sender: PublicIdentity, party: Party, key: KeyPair, about: bytes
) -> Channel:
    """The same from the coordinator's side; `key`: its key of the attempt."""
    return Channel(
        own=key,
        peer_public=message.ephemeral,
        sender=sender,
        receiver=party.identity.public,
        manifest_hash=message.manifest_hash,
        about=about,
    )
