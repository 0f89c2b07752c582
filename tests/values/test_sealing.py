"""`smpc_fl.sealing`: key agreement, small boxes and streams; every way of tampering is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import nacl.bindings
import nacl.secret
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, DecryptionFailed, MalformedMessage
from smpc_fl.hashing import derive_key, digest
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.sealing import (
    LOW_ORDER,
    TAG,
    Agreement,
    KeyPair,
    Stream,
    StreamOpener,
    is_low_order,
    open_small,
    seal_small,
)
from smpc_fl.secret import Secret

KEY = bytes(range(32))
OWNER, AGGREGATOR, THIRD = (Identity.from_seed(bytes([k]) * 32).public for k in (1, 2, 3))

# RFC 7748, section 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def key_between(
    own: bytes,
    peer: bytes,
    *,
    sender: PublicIdentity = OWNER,
    receiver: PublicIdentity = AGGREGATOR,
    manifest_hash: bytes = b"m" * 32,
    about: bytes = b"r" * 32,
    kind: str = "owner>aggregator SeedReport",
) -> bytes:
    return Agreement(KeyPair.from_private(Secret(own)), peer).key(
        sender=sender,
        receiver=receiver,
        manifest_hash=manifest_hash,
        about=about,
        kind=kind,
    )


# --- key agreement ------------------------------------------------------------------------------------------------


def test_rfc7748_key_pairs_and_shared_secret() -> None:
    assert KeyPair.from_private(Secret(ALICE)).public == ALICE_PUBLIC
    assert KeyPair.from_private(Secret(BOB)).public == BOB_PUBLIC
    assert nacl.bindings.crypto_scalarmult(ALICE, BOB_PUBLIC) == SHARED


def test_channel_key_is_blake2b_of_the_shared_secret_in_context() -> None:
    expected = derive_key(
        "smpc-fl/1 channel",
        SHARED,
        OWNER.key,
        AGGREGATOR.key,
        ALICE_PUBLIC,  # the smaller of the two
        BOB_PUBLIC,
        b"m" * 32,
        b"r" * 32,
        b"owner>aggregator SeedReport",
    )
    assert key_between(ALICE, BOB_PUBLIC) == expected
    assert key_between(BOB, ALICE_PUBLIC) == expected


def test_everything_that_a_channel_key_is_bound_to_changes_it() -> None:
    carol = KeyPair.generate(np.random.default_rng(1).bytes)
    keys = [
        key_between(ALICE, BOB_PUBLIC),
        key_between(ALICE, carol.public),
        key_between(ALICE, BOB_PUBLIC, sender=THIRD),
        key_between(ALICE, BOB_PUBLIC, receiver=THIRD),
        key_between(ALICE, BOB_PUBLIC, sender=AGGREGATOR, receiver=OWNER),
        key_between(ALICE, BOB_PUBLIC, manifest_hash=b"n" * 32),
        key_between(ALICE, BOB_PUBLIC, about=b"s" * 32),
        key_between(ALICE, BOB_PUBLIC, kind="aggregator>coordinator PartialSum"),
    ]
    assert len(set(keys)) == len(keys)
    # The other spelling of the same point (RFC 7748, section 5, masks the top bit) is another key.
    masked = BOB_PUBLIC[:31] + bytes([BOB_PUBLIC[31] | 0x80])
    assert nacl.bindings.crypto_scalarmult(ALICE, masked) == SHARED
    assert key_between(ALICE, masked) not in keys


def test_generated_pairs_agree_and_come_back_from_their_private_key() -> None:
    entropy = np.random.default_rng(2).bytes
    one, other = KeyPair.generate(entropy), KeyPair.generate(entropy)
    assert one.public != other.public
    assert KeyPair.from_private(one.private) == one
    assert key_between(one.private.reveal(), other.public) == key_between(other.private.reveal(), one.public)
    assert one.private.reveal().hex() not in repr(one)


@pytest.mark.parametrize("point", sorted(LOW_ORDER))
def test_low_order_keys_are_refused(point: bytes) -> None:
    for key in (point, point[:31] + bytes([point[31] | 0x80])):
        assert is_low_order(key)
        with pytest.raises(MalformedMessage, match="low order"):
            key_between(ALICE, key)


def test_other_keys_are_not_of_low_order() -> None:
    assert not is_low_order(ALICE_PUBLIC)
    assert key_between(ALICE, BOB_PUBLIC)


def test_key_sizes_are_checked() -> None:
    with pytest.raises(MalformedMessage, match="32 bytes, not 31"):
        key_between(ALICE, bytes(31))
    with pytest.raises(BadInput, match="32 bytes, not 33"):
        KeyPair.from_private(Secret(bytes(33)))


# --- small boxes --------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_small_boxes_open(plaintext: bytes) -> None:
    sealed = seal_small(KEY, plaintext)
    assert len(sealed) == len(plaintext) + 16
    assert open_small(KEY, sealed) == plaintext


def test_small_boxes_refuse_any_change() -> None:
    sealed = seal_small(KEY, b"seed and blinder")
    for bit in range(8 * len(sealed)):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionFailed):
            open_small(KEY, bytes(forged))
    for wrong in (b"", sealed[:15], sealed[:-1], sealed + b"\0"):
        with pytest.raises(DecryptionFailed):
            open_small(KEY, wrong)
    with pytest.raises(DecryptionFailed):
        open_small(bytes(32), sealed)


# --- streams ------------------------------------------------------------------------------------------------------


def seal(plaintext: bytes, chunk: int, associated: bytes = b"manifest", order: Sequence[int] = ()) -> list[bytes]:
    """The sealed chunks, made in this order."""
    stream = Stream(KEY, associated, len(plaintext), chunk)
    out = bytearray(stream.sealed_length)
    for number in order or range(stream.chunks):
        stream.seal(number, plaintext[stream.plain(number)], memoryview(out)[stream.sealed(number)])
    return [bytes(out[stream.sealed(number)]) for number in range(stream.chunks)]


def opener_of(
    length: int, chunk: int, key: bytes = KEY, associated: bytes = b"manifest", into: memoryview | None = None
) -> StreamOpener:
    return StreamOpener(Stream(key, associated, length, chunk), into)


def fed(opener: StreamOpener, piece: bytes | memoryview) -> list[bytes]:
    """The plaintext of the chunks that this piece made complete."""
    return [bytes(plain) for plain in opener.feed(piece)]


@given(st.binary(max_size=60), st.integers(1, 20), st.booleans(), st.data())
def test_streams_open_in_any_pieces(plaintext: bytes, chunk: int, whole: bool, data: st.DataObject) -> None:
    chunks = seal(plaintext, chunk)
    sealed, out = b"".join(chunks), bytearray(len(plaintext))
    assert len(sealed) == len(plaintext) + TAG * len(chunks) == Stream(KEY, b"", len(plaintext), chunk).sealed_length
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sealed)), max_size=6)))
    opener = opener_of(len(plaintext), chunk, into=memoryview(out) if whole else None)
    opened = [plain for a, b in pairwise([0, *cuts, len(sealed)]) for plain in fed(opener, sealed[a:b])]
    opener.finish()
    assert b"".join(opened) == plaintext
    assert [len(part) for part in opened] == [len(part) - TAG for part in chunks]
    assert opener.tags == b"".join(part[-TAG:] for part in chunks)
    assert not whole or out == plaintext


def test_byte_by_byte() -> None:
    sealed = b"".join(seal(b"0123456789", 4))
    opener = opener_of(10, 4)
    pieces = [fed(opener, sealed[k : k + 1]) for k in range(len(sealed))]
    assert [piece for piece in pieces if piece] == [[b"0123"], [b"4567"], [b"89"]]
    opener.finish()


def test_many_chunks_in_one_piece_come_one_after_the_other() -> None:
    """Without a place of its own each overwrites the one before: nothing of the stream's size is ever held."""
    chunks = seal(b"0123456789", 4)
    opener = opener_of(10, 4)
    seen: list[bytes] = []
    views: list[memoryview] = []
    for plain in opener.feed(memoryview(b"".join(chunks))):
        seen.append(bytes(plain))
        views.append(plain)
    opener.finish()
    assert seen == [b"0123", b"4567", b"89"]
    assert bytes(views[0]) == b"8967"


def test_chunks_are_sealed_and_opened_in_any_order() -> None:
    chunks = seal(b"0123456789", 4)
    assert seal(b"0123456789", 4, order=[2, 0, 1]) == chunks
    stream, out = Stream(KEY, b"manifest", 10, 4), bytearray(10)
    for number in (1, 2, 0):
        stream.open(number, chunks[number], memoryview(out)[stream.plain(number)])
    assert out == b"0123456789"


def test_layout_of_chunks_is_stream() -> None:
    # An independent reading: number (11 bytes, big-endian) ‖ last flag, bound to associated data, length, chunk size.
    plaintext, chunk = b"0123456789", 4
    cipher = AESGCM(derive_key("smpc-fl/1 stream", KEY))
    bound = digest("smpc-fl/1 stream", b"manifest", (10).to_bytes(8, "little"), (4).to_bytes(8, "little"))
    sealed = seal(plaintext, chunk)
    for number, piece in enumerate(sealed):
        nonce = number.to_bytes(11, "big") + (b"\1" if number == 2 else b"\0")
        assert cipher.decrypt(nonce, piece, bound) == plaintext[4 * number : 4 * number + 4]


def test_an_exact_multiple_ends_with_a_full_chunk_and_nothing_is_one_chunk() -> None:
    assert [len(c) for c in seal(bytes(8), 4)] == [20, 20]
    assert [len(c) for c in seal(b"", 4)] == [16]
    opener = opener_of(0, 4)
    with pytest.raises(DecryptionFailed, match="cut short"):
        opener.finish()
    assert fed(opener, seal(b"", 4)[0]) == [b""]
    opener.finish()


def assert_refused(sealed: bytes, length: int = 12, chunk: int = 4, key: bytes = KEY, ad: bytes = b"manifest") -> None:
    for size in (len(sealed) + 1, 7):
        opener = opener_of(length, chunk, key, ad)
        with pytest.raises(DecryptionFailed):  # noqa: PT012
            for k in range(0, len(sealed), size):
                fed(opener, sealed[k : k + size])
            opener.finish()


def test_tampering_with_a_stream() -> None:
    chunks = seal(b"abcdefghijkl", 4)
    assert len(chunks) == 3
    a, b, c = chunks
    other = seal(b"ABCDEFGHIJKL", 4, b"other")
    longer = seal(b"abcdefghijklmnop", 4)
    for sealed in (
        b"",  # nothing
        a + b,  # cut at a chunk
        (a + b + c)[:-1],  # cut within one
        b + a + c,  # reordered
        a + a + c,  # repeated
        a + c,  # left out
        a + b + b,  # another end
        a + b + c + b"\0",  # extended by a byte
        a + b + c + c,  # extended by a chunk
        a + other[1] + c,  # spliced from another manifest's stream
        longer[0] + longer[1] + longer[2],  # the head of a longer stream
    ):
        assert_refused(sealed)
    whole = a + b + c
    for bit in range(8 * len(whole)):
        forged = bytearray(whole)
        forged[bit // 8] ^= 1 << bit % 8
        assert_refused(bytes(forged))
    assert_refused(whole, key=bytes(32))
    assert_refused(whole, ad=b"another")
    assert_refused(whole, length=11)
    assert_refused(whole, length=13)
    assert_refused(whole, chunk=6)
    # Same chunk boundaries, other chunk size: a single short chunk.
    assert_refused(seal(b"abc", 4)[0], length=3, chunk=5)


@pytest.mark.parametrize("size", [5, 20, 21])
def test_a_failed_opener_stays_failed(size: int) -> None:
    """Also with the right bytes, in whole chunks or not: what did not open is not passed over."""
    a, b = seal(b"abcdefgh", 4)
    opener = opener_of(8, 4)
    wrong = b + a
    with pytest.raises(DecryptionFailed, match="does not open"):  # noqa: PT012
        for k in range(0, len(wrong), size):
            fed(opener, wrong[k : k + size])
    for piece in (a, b):
        with pytest.raises(DecryptionFailed, match="after what did not open"):
            fed(opener, piece)
    with pytest.raises(DecryptionFailed, match="did not open"):
        opener.finish()
    assert not opener.tags


def test_one_key_may_seal_one_box_and_one_stream() -> None:
    # Different subkeys: what one made is nothing to the other.
    box = nacl.secret.SecretBox(derive_key("smpc-fl/1 small", KEY))
    assert box.decrypt(seal_small(KEY, b"x"), bytes(24)) == b"x"
    with pytest.raises(DecryptionFailed):
        open_small(KEY, seal(b"x", 4)[0])
    with pytest.raises(DecryptionFailed):
        fed(opener_of(1, 4), seal_small(KEY, b"x"))


def test_wrong_stream_arguments() -> None:
    for length, chunk in ((1, 0), (-1, 4), (4, -1)):
        with pytest.raises(BadInput, match="at least one byte"):
            Stream(KEY, b"", length, chunk)
