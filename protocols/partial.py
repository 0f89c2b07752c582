"""A partial sum on its way to the coordinator: what an aggregator seals at the release, and what the coordinator opens.

Sealed to the coordinator's key of this attempt under a fresh ephemeral key of the aggregator's, bound to the manifest and S.
"""

from __future__ import annotations

from collections.abc import Sequence

from smpc_fl.entropy import Entropy
from smpc_fl.hashing import Buffer, derive_key
from smpc_fl.prg import Prg
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.privacy.mechanism import Noise
from smpc_fl.protocols import vectors
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.messages import Manifest, PartialSum
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.vectors import Parallel
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair


def seal(
    total: RingArray | None,
    streams: Sequence[Prg],
    choice: bytes,
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

    `secret`: 32 bytes of this attempt that were durable before any vote. The noise follows from them, the manifest and S, so
    that a sum which is sealed again, after a crash as well, has the same noise: of two, the mean would have less."""
    of, n = ring(manifest.ring_bits), manifest.dimension
    ephemeral = KeyPair.generate(entropy)
    channel = Channel(
        own=ephemeral,
        peer_public=manifest.coordinator_key,
        sender=party.identity.public,
        receiver=party.key_of(manifest.coordinator, "coordinator"),
        manifest_hash=hash_,
        about=choice,
    )
    sealed = vectors.seal_sum(
        vectors.stream(channel.partial_key(), hash_, of, n), of, total if total is not None else of.zeros(n), streams,
        parallel, _noise(manifest.privacy, secret, hash_, choice),
    )  # fmt: skip
    message = PartialSum(hash_, choice, ephemeral.public)
    return Send(manifest.coordinator, party.sign(message), sealed, vectors.fragment_size(of))


def _noise(noise: Noise | None, secret: bytes, hash_: bytes, choice: bytes) -> DiscreteGaussian | None:
    if noise is None:
        return None
    return DiscreteGaussian(noise.sigma, derive_key("smpc-fl/1 noise", secret, hash_, choice))


def open_(
    message: PartialSum, sealed: Buffer, sender: str, manifest: Manifest, party: Party, key: KeyPair
) -> RingArray:
    """The sum, ring[d], that `sender` has sealed to the coordinator's `key`. Raises `DecryptionFailed`, `MalformedMessage`."""
    of, n = ring(manifest.ring_bits), manifest.dimension
    channel = Channel(
        own=key,
        peer_public=message.ephemeral,
        sender=party.key_of(sender, "aggregator"),
        receiver=party.identity.public,
        manifest_hash=message.manifest_hash,
        about=message.set_hash,
    )
    stream = vectors.stream(channel.partial_key(), message.manifest_hash, of, n)
    return vectors.open_vector(stream, of, n, sealed)
