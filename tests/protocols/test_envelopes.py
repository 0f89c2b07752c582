"""What is sealed in a round opens for its receiver, as what it is, about what it is about, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig import Draws

from smpc_fl.errors import DecryptionFailed
from smpc_fl.identity import Identity
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.sealing import KeyPair, seal_small
from smpc_fl.secret import Secret

DRAW = Draws("envelopes")
OWNER, AGGREGATOR, OTHER = (Identity.generate(DRAW).public for _ in range(3))
EPHEMERAL, PREKEY = KeyPair.generate(DRAW), KeyPair.generate(DRAW)
MANIFEST, ABOUT = b"m" * 32, b"a" * 32
SEED, BLINDER = b"s" * 32, b"b" * 32
HERE = Channel(EPHEMERAL, PREKEY.public, OWNER, AGGREGATOR, MANIFEST, ABOUT)
THERE = Channel(PREKEY, EPHEMERAL.public, OWNER, AGGREGATOR, MANIFEST, ABOUT)

ELSEWHERE = {
    "another sender": replace(THERE, sender=OTHER),
    "another receiver": replace(THERE, receiver=OTHER),
    "the other direction": replace(THERE, sender=AGGREGATOR, receiver=OWNER),
    "another manifest": replace(THERE, manifest_hash=ABOUT),
    "another report": replace(THERE, about=MANIFEST),
    "another prekey": replace(THERE, own=KeyPair.from_private(Secret(b"k" * 32))),
    "another ephemeral key": replace(THERE, peer_public=PREKEY.public),
}


def test_what_was_sealed_opens() -> None:
    assert THERE.open_seed(HERE.seal_seed(SEED, BLINDER)) == (SEED, BLINDER)
    assert THERE.open_blinder(HERE.seal_blinder(BLINDER)) == BLINDER
    assert THERE.vector_key() == HERE.vector_key()
    assert THERE.partial_key() == HERE.partial_key()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_it_opens_nowhere_else(name: str) -> None:
    there = ELSEWHERE[name]
    with pytest.raises(DecryptionFailed):
        there.open_seed(HERE.seal_seed(SEED, BLINDER))
    with pytest.raises(DecryptionFailed):
        there.open_blinder(HERE.seal_blinder(BLINDER))
    assert there.partial_key() != HERE.partial_key()
    # The key of a vector is older than its report's id: the tags that it makes are named in there.
    assert (there.vector_key() == HERE.vector_key()) is (name == "another report")


def test_each_kind_of_message_has_a_key_of_its_own() -> None:
    with pytest.raises(DecryptionFailed):
        THERE.open_seed(HERE.seal_blinder(SEED + BLINDER))
    with pytest.raises(DecryptionFailed):
        THERE.open_blinder(HERE.seal_seed(SEED, BLINDER))
    about_nothing = replace(HERE, about=b"")
    keys = {HERE._key("owner>aggregator seed"), HERE._key("owner>aggregator blinder")}
    keys |= {HERE.vector_key(), HERE.partial_key(), about_nothing.partial_key()}
    assert len(keys) == 5


def test_contents_of_another_length_are_refused() -> None:
    for data in (SEED, SEED + BLINDER + b"!"):
        with pytest.raises(DecryptionFailed, match="sealed seed has the wrong length"):
            THERE.open_seed(seal_small(HERE._key("owner>aggregator seed"), data))
    for data in (b"short", BLINDER + b"!"):
        with pytest.raises(DecryptionFailed, match="sealed blinder has the wrong length"):
            THERE.open_blinder(seal_small(HERE._key("owner>aggregator blinder"), data))
