"""What is sealed in a round opens for its receiver, as what it is, about what it is about, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig import Draws

from smpc_fl.errors import DecryptionFailed
from smpc_fl.identity import Identity
from smpc_fl.protocols.envelopes import Channel, sealed_size
from smpc_fl.sealing import KeyPair, seal_small
from smpc_fl.secret import Secret

DRAW = Draws("envelopes")
OWNER, AGGREGATOR, OTHER = (Identity.generate(DRAW).public for _ in range(3))
EPHEMERAL, PREKEY = KeyPair.generate(DRAW), KeyPair.generate(DRAW)
MANIFEST, ABOUT = b"m" * 32, b"a" * 32
SEED, BLINDER, SHARE = b"s" * 32, b"b" * 32, bytes(range(256)) * 5
HERE = Channel(EPHEMERAL.private, PREKEY.public, OWNER, AGGREGATOR, MANIFEST, ABOUT)
THERE = Channel(PREKEY.private, EPHEMERAL.public, OWNER, AGGREGATOR, MANIFEST, ABOUT)

ELSEWHERE = {
    "another sender": replace(THERE, sender=OTHER),
    "another receiver": replace(THERE, receiver=OTHER),
    "the other direction": replace(THERE, sender=AGGREGATOR, receiver=OWNER),
    "another manifest": replace(THERE, manifest_hash=ABOUT),
    "another report": replace(THERE, about=MANIFEST),
    "another prekey": replace(THERE, own_private=Secret(b"k" * 32)),
    "another ephemeral key": replace(THERE, peer_public=PREKEY.public),
}


def test_what_was_sealed_opens() -> None:
    assert THERE.open_seed(HERE.seal_seed(SEED, BLINDER)) == (SEED, BLINDER)
    sealed, attachment = HERE.seal_vector(SHARE, BLINDER)
    assert len(attachment) == sealed_size(len(SHARE)) == len(SHARE) + 16
    assert THERE.open_vector(sealed, attachment, len(SHARE)) == (SHARE, BLINDER)
    assert THERE.open_partial(HERE.seal_partial(SHARE), len(SHARE)) == SHARE


@pytest.mark.parametrize("name", ELSEWHERE)
def test_it_opens_nowhere_else(name: str) -> None:
    there = ELSEWHERE[name]
    with pytest.raises(DecryptionFailed):
        there.open_seed(HERE.seal_seed(SEED, BLINDER))
    sealed, attachment = HERE.seal_vector(SHARE, BLINDER)
    with pytest.raises(DecryptionFailed):
        there.open_vector(sealed, attachment, len(SHARE))
    with pytest.raises(DecryptionFailed):
        there.open_partial(HERE.seal_partial(SHARE), len(SHARE))


def test_each_kind_of_message_has_a_key_of_its_own() -> None:
    sealed, attachment = HERE.seal_vector(SHARE, BLINDER)
    with pytest.raises(DecryptionFailed):
        THERE.open_seed(sealed)
    with pytest.raises(DecryptionFailed):
        THERE.open_vector(HERE.seal_seed(SEED, BLINDER), attachment, len(SHARE))
    with pytest.raises(DecryptionFailed):
        THERE.open_partial(attachment, len(SHARE))


def test_contents_of_another_length_are_refused() -> None:
    for data in (SEED, SEED + BLINDER + b"!"):
        with pytest.raises(DecryptionFailed, match="sealed seed has the wrong length"):
            THERE.open_seed(seal_small(HERE._key("owner>aggregator seed"), data))
    _, attachment = HERE.seal_vector(SHARE, BLINDER)
    with pytest.raises(DecryptionFailed, match="sealed blinder has the wrong length"):
        THERE.open_vector(seal_small(HERE._key("owner>aggregator blinder"), b"short"), attachment, len(SHARE))
    for size in (len(SHARE) - 1, len(SHARE) + 1):
        with pytest.raises(DecryptionFailed):
            THERE.open_vector(HERE.seal_vector(SHARE, BLINDER)[0], attachment, size)
