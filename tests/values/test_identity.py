"""`smpc_fl.identity`: Ed25519 identities."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from smpc_fl.errors import BadInput, PermissionDenied
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.secret import Secret

# RFC 8032, section 7.1, TEST 1 to TEST 3: seed, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
]
SEED = bytes.fromhex(VECTORS[0][0])


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_rfc8032_vectors(seed: str, public: str, message: str, signature: str) -> None:
    identity = Identity.from_seed(bytes.fromhex(seed))
    assert identity.public.hex == public
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    assert PublicIdentity.from_hex(public).verify(bytes.fromhex(message), bytes.fromhex(signature))


def test_generated_identities_differ_and_come_back_from_their_seed() -> None:
    entropy = np.random.default_rng(1).bytes
    one, other = Identity.generate(entropy), Identity.generate(entropy)
    assert one.public != other.public
    assert Identity.from_seed(one.seed).public == one.public
    assert Identity.from_seed(one.seed.reveal()).sign(b"x") == one.sign(b"x")
    assert len({one.public, other.public, PublicIdentity(one.public.key)}) == 2


def test_any_changed_bit_or_size_fails_to_verify() -> None:
    identity = Identity.from_seed(SEED)
    message, signature = b"manifest", identity.sign(b"manifest")
    assert len(signature) == 64
    assert identity.public.verify(message, signature)
    for bit in range(512):
        forged = bytearray(signature)
        forged[bit // 8] ^= 1 << bit % 8
        assert not identity.public.verify(message, bytes(forged))
    assert not identity.public.verify(b"manifesT", signature)
    assert not identity.public.verify(message, signature[:-1])
    assert not identity.public.verify(message, signature + b"\0")
    assert not identity.public.verify(message, b"")
    assert not Identity.generate(np.random.default_rng(2).bytes).public.verify(message, signature)


def test_the_other_spelling_of_a_signature_is_refused() -> None:
    # RFC 8032, section 5.1.7: S must be below the group's order L, or S + L would verify as well.
    signature = Identity.from_seed(SEED).sign(b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not Identity.from_seed(SEED).public.verify(b"m", malleable)


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_keys_of_small_order_verify_nothing(key: bytes) -> None:
    # With such a key, R = key and S = 0 would satisfy the equation for many messages.
    public = PublicIdentity(key)
    for message in (b"", b"a", b"b", b"c", b"d", b"e", b"f", b"g"):
        assert not public.verify(message, key + bytes(32))
        assert not public.verify(message, b"\1" + bytes(63))


def test_sizes_and_spellings_are_checked() -> None:
    with pytest.raises(BadInput, match="32 bytes, not 31"):
        PublicIdentity(bytes(31))
    with pytest.raises(BadInput, match="32 bytes, not 33"):
        Identity.from_seed(bytes(33))
    with pytest.raises(BadInput, match="64 hex digits"):
        PublicIdentity.from_hex("not hex")
    with pytest.raises(BadInput, match="32 bytes, not 2"):
        PublicIdentity.from_hex("abcd")


def test_fingerprint_is_for_people() -> None:
    public = Identity.from_seed(SEED).public
    groups = public.fingerprint.split("-")
    assert [len(group) for group in groups] == [4] * 8
    assert public.fingerprint == PublicIdentity.from_hex(public.hex).fingerprint
    assert public.fingerprint != Identity.from_seed(bytes(32)).public.fingerprint
    assert repr(public) == f"<PublicIdentity {public.fingerprint}>"


def test_no_way_to_print_pickle_or_copy_the_private_part() -> None:
    identity = Identity.from_seed(Secret(SEED))
    for text in (repr(identity), str(identity), f"{identity}"):
        assert text == f"<Identity {identity.public.fingerprint}>"
    assert not hasattr(identity, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(PermissionDenied, match="identity"):
            attempt(identity)
