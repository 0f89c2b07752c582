"""Sealing: from X25519 key agreement (RFC 7748) to one key for each message, small boxes, and streams for vectors.

Either side of a channel combines a short-lived X25519 key of its own with the other's; the signed messages that carry
those keys vouch for them. The shared point alone names nobody, so the key is BLAKE2b of it together with both
identities, both X25519 keys, the manifest hash, what the message is about and what kind of message it is (RFC 7748,
section 7, on public keys in the derivation; Krawczyk's "SIGMA", CRYPTO 2003, on identities): a box opens only between
these two, in this attempt, as this message. Keys that are erased after the round give forward secrecy.

A channel key seals at most one small box and at most one stream; the two use different subkeys.

Streams: the plaintext in chunks, each AES-256-GCM (NIST SP 800-38D) under a 12-byte nonce of 11 bytes chunk number
(big-endian) and 1 byte that is 1 for the last chunk: the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár
("Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015). The caller's associated data (the
manifest hash in it), the length and the chunk size are authenticated with every chunk. Cut, reordered, repeated or
extended streams do not open. Each chunk is 16 bytes longer than its plaintext; nothing is one empty chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import nacl.bindings
import nacl.exceptions
import nacl.secret
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, DecryptionFailed, MalformedMessage
from smpc_fl.hashing import Buffer, derive_key, digest
from smpc_fl.identity import PublicIdentity
from smpc_fl.secret import Secret

KEY_SIZE = 32
TAG = 16
"""Bytes that a small box, or a chunk of a stream, is longer than its plaintext."""

_ZERO_NONCE = bytes(nacl.secret.SecretBox.NONCE_SIZE)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair, for one round or one report; `public` and `private` are 32 bytes."""

    public: bytes
    private: Secret

    @classmethod
    def generate(cls, entropy: Entropy) -> KeyPair:
        return cls.from_private(Secret(entropy(KEY_SIZE)))

    @classmethod
    def from_private(cls, private: Secret) -> KeyPair:
        """The pair that has this private key (as read back from a durable record). Raises `BadInput`."""
        if len(private) != KEY_SIZE:
            raise BadInput(f"an X25519 private key has {KEY_SIZE} bytes, not {len(private)}")
        return cls(nacl.bindings.crypto_scalarmult_base(private.reveal()), private)


LOW_ORDER = frozenset(
    bytes.fromhex(u)
    for u in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The public keys whose shared point is zero with every private key: 0, 1, two points of order 8, p - 1, p and p + 1, as
libsodium lists them (crypto_scalarmult_curve25519). The top bit of a key is not read (RFC 7748, section 5)."""


def is_low_order(public: bytes) -> bool:
    """Whether everybody knows the shared point that this key leads to."""
    return public[:-1] + bytes([public[-1] & 0x7F]) in LOW_ORDER


@dataclass(frozen=True)
class Agreement:
    """X25519 between a pair of our own and a peer's public key. The shared point is computed once, for all keys of it."""

    own: KeyPair
    peer: bytes

    def key(
        self, *, sender: PublicIdentity, receiver: PublicIdentity, manifest_hash: bytes, about: bytes, kind: str
    ) -> bytes:
        """The 32-byte key of one message from `sender` to `receiver`; both sides compute it, each with its own pair.

        `about`: a report id or another id; `kind`: direction and message type. Raises `MalformedMessage` for a peer key
        of the wrong size or of low order, whose shared point everybody knows (RFC 7748, section 6.1)."""
        # Sorted, because the two sides know only which key is their own; sender and receiver give the direction.
        low, high = sorted((self.own.public, self.peer))
        context = (sender.key, receiver.key, low, high, manifest_hash, about, kind.encode())
        return derive_key("smpc-fl/1 channel", self._shared, *context)

    @cached_property
    def _shared(self) -> bytes:
        if len(self.peer) != KEY_SIZE:
            raise MalformedMessage(f"an X25519 key has {KEY_SIZE} bytes, not {len(self.peer)}")
        try:
            return nacl.bindings.crypto_scalarmult(self.own.private.reveal(), self.peer)
        except nacl.exceptions.RuntimeError:
            raise MalformedMessage("a peer's X25519 key is of low order: nothing may be sealed to it") from None


def seal_small(key: bytes, plaintext: bytes) -> bytes:
    """`plaintext` in a NaCl secretbox (XSalsa20-Poly1305), 16 bytes longer. At most one for each `key`.

    The nonce is fixed at zero because the key is used once; sealing the same plaintext again gives the same bytes."""
    box = nacl.secret.SecretBox(derive_key("smpc-fl/1 small", key))
    return box.encrypt(plaintext, _ZERO_NONCE).ciphertext


def open_small(key: bytes, sealed: bytes) -> bytes:
    """The plaintext of a small box. Raises `DecryptionFailed`."""
    try:
        return nacl.secret.SecretBox(derive_key("smpc-fl/1 small", key)).decrypt(sealed, _ZERO_NONCE)
    except nacl.exceptions.CryptoError:
        raise DecryptionFailed("a sealed box does not open: wrong key or altered bytes") from None


class Stream:
    """Seals or opens the chunks of one stream of `length` plaintext bytes, in any order. At most one stream for each `key`."""

    def __init__(self, key: bytes, associated: bytes, length: int, chunk: int) -> None:
        """`chunk`: bytes of plaintext in each chunk but the last. Raises `BadInput`."""
        if length < 0 or chunk < 1:
            raise BadInput("a stream's length is not negative, and its chunk has at least one byte")
        self.chunks = max(1, -(-length // chunk))
        self.length = length
        self.chunk = chunk
        self._cipher = AESGCM(derive_key("smpc-fl/1 stream", key))
        self._bound = digest("smpc-fl/1 stream", associated, length.to_bytes(8, "little"), chunk.to_bytes(8, "little"))

    @property
    def sealed_length(self) -> int:
        return self.length + TAG * self.chunks

    def plain(self, number: int) -> slice:
        """Where chunk `number` lies in the plaintext."""
        return slice(number * self.chunk, min((number + 1) * self.chunk, self.length))

    def sealed(self, number: int) -> slice:
        """Where chunk `number` lies in the sealed stream."""
        place = self.plain(number)
        return slice(place.start + number * TAG, place.stop + (number + 1) * TAG)

    def seal(self, number: int, plain: Buffer, sealed: memoryview) -> None:
        """Writes chunk `number` to `sealed`, which is TAG bytes longer."""
        self._cipher.encrypt_into(self._nonce(number), plain, self._bound, sealed)

    def open(self, number: int, sealed: Buffer, plain: memoryview) -> None:
        """Writes the plaintext of chunk `number` to `plain`. Raises `DecryptionFailed`."""
        try:
            self._cipher.decrypt_into(self._nonce(number), sealed, self._bound, plain)
        except InvalidTag:
            raise DecryptionFailed("a sealed stream does not open: wrong key, altered or reordered bytes") from None

    def _nonce(self, number: int) -> bytes:
        return number.to_bytes(11, "big") + bytes([number == self.chunks - 1])


class StreamOpener:
    """Opens a stream piece by piece as it arrives, in pieces of any size; a piece that is a whole chunk is not copied.

    `into`: where the plaintext goes, all of it; without it each chunk overwrites the one before. What `feed` yields is
    authentic as far as it goes; the stream is whole only when `finish` has returned."""

    def __init__(self, stream: Stream, into: memoryview | None = None) -> None:
        self._stream = stream
        self._into = into
        self._scratch = memoryview(bytearray(0 if into is not None else min(stream.chunk, stream.length)))
        self._number = 0
        self._pending = bytearray()
        self.tags = bytearray()
        """The authentication tags of the chunks that were opened."""

    def feed(self, piece: Buffer) -> Iterator[memoryview]:
        """The plaintext of each chunk that became complete with these sealed bytes (often of none), in order.

        Raises `DecryptionFailed`. It must be iterated to its end."""
        rest = memoryview(piece).cast("B")
        while rest.nbytes:
            if not 0 <= self._number < self._stream.chunks:
                raise DecryptionFailed("a sealed stream goes on after its end, or after what did not open")
            place = self._stream.sealed(self._number)
            missing = place.stop - place.start - len(self._pending)
            if rest.nbytes < missing or self._pending:
                self._pending += rest[:missing]
            if rest.nbytes >= missing:
                yield self._open(bytes(self._pending) if self._pending else rest[:missing])
            rest = rest[missing:]

    def finish(self) -> None:
        """Raises `DecryptionFailed` unless the stream ended where it should have."""
        if self._number != self._stream.chunks:
            raise DecryptionFailed("a sealed stream is cut short, or did not open")

    def _open(self, sealed: Buffer) -> memoryview:
        number, self._number = self._number, -1  # where it stays if the chunk does not open
        place = self._stream.plain(number)
        plain = self._scratch[: place.stop - place.start] if self._into is None else self._into[place]
        self._stream.open(number, sealed, plain)
        self.tags += sealed[-TAG:]
        self._pending.clear()
        self._number = number + 1
        return plain
