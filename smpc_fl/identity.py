"""Who a node is: an Ed25519 key pair (RFC 8032, section 5.1), by PyNaCl.

libsodium's verification is strict: it refuses non-canonical signatures and keys, and keys of small order, so that a
signature binds one key and one message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, final

import nacl.exceptions
import nacl.signing

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, PermissionDenied
from smpc_fl.hashing import digest
from smpc_fl.secret import Secret

SEED_SIZE = 32
KEY_SIZE = 32
SIGNATURE_SIZE = 64


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """An Ed25519 public key, 32 bytes: what a roster lists and what signatures are checked against."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE:
            raise BadInput(f"a public identity key has {KEY_SIZE} bytes, not {len(self.key)}")

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` over `data` was made by this key's owner; False for anything malformed as well."""
        if len(signature) != SIGNATURE_SIZE:
            return False
        try:
            nacl.signing.VerifyKey(self.key).verify(data, signature)
        except nacl.exceptions.BadSignatureError:
            return False
        return True

    def signer(self, data: bytes, signature: bytes) -> PublicIdentity | None:
        """The key that made the signature: this one, or None."""
        return self if self.verify(data, signature) else None

    @property
    def fingerprint(self) -> str:
        """128 bits in eight groups of four hex digits, for two people to compare by voice."""
        text = digest("smpc-fl/1 finger", self.key, size=16).hex()
        return "-".join(text[i : i + 4] for i in range(0, len(text), 4))

    @property
    def hex(self) -> str:
        """The key in 64 hex digits, as configuration files hold it."""
        return self.key.hex()

    @classmethod
    def from_hex(cls, text: str) -> PublicIdentity:
        """The identity that `hex` wrote. Raises `BadInput`."""
        try:
            key = bytes.fromhex(text)
        except ValueError:
            raise BadInput(
                "a public identity key is written as 64 hex digits; this text holds something else"
            ) from None
        return cls(key)

    def __repr__(self) -> str:
        return f"<PublicIdentity {self.fingerprint}>"


@dataclass(frozen=True, slots=True)
class OverlappingIdentity(PublicIdentity):
    """A member's key while it replaces another: signatures of the `former` ones are believed as well."""

    former: tuple[PublicIdentity, ...]

    def verify(self, data: bytes, signature: bytes) -> bool:
        return self.signer(data, signature) is not None

    def signer(self, data: bytes, signature: bytes) -> PublicIdentity | None:
        """Which of its keys made the signature, if one did."""
        keys = (PublicIdentity(self.key), *self.former)
        return next((key for key in keys if key.verify(data, signature)), None)


@final
class Identity:
    """A node's own signing key. Its `repr` is its public fingerprint; it cannot be pickled or copied."""

    __slots__ = ("_public", "_seed", "_signer")

    def __init__(self, seed: Secret) -> None:
        """`seed`: 32 uniformly random bytes, RFC 8032's private key. Raises `BadInput` for another size."""
        if len(seed) != SEED_SIZE:
            raise BadInput(f"an identity's seed has {SEED_SIZE} bytes, not {len(seed)}")
        self._seed = seed
        self._signer = nacl.signing.SigningKey(seed.reveal())
        self._public = PublicIdentity(bytes(self._signer.verify_key))

    @classmethod
    def generate(cls, entropy: Entropy) -> Identity:
        """A fresh identity out of 32 bytes of `entropy`."""
        return cls(Secret(entropy(SEED_SIZE)))

    @classmethod
    def from_seed(cls, seed: Secret | bytes) -> Identity:
        """The identity that has this seed (as read from a key file)."""
        return cls(seed if isinstance(seed, Secret) else Secret(seed))

    @property
    def seed(self) -> Secret:
        """The 32 bytes that a key file keeps."""
        return self._seed

    @property
    def public(self) -> PublicIdentity:
        return self._public

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data`, 64 bytes; deterministic, so it needs no randomness."""
        return self._signer.sign(data).signature

    def __repr__(self) -> str:
        return f"<Identity {self._public.fingerprint}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise PermissionDenied("an identity cannot be pickled or copied: keep its seed in a key file of mode 0600")
