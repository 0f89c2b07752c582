"""What is foreign where vectors are encrypted: residues, sums that are to be decrypted, requests to do so, keys from a file."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import grammar
import msgspec
import mutations
import numpy as np
from clear_cipher import ClearCipher
from encrypted_rig import EncryptedRig, asked
from engine import Target, Wrong

from smpc_fl.encryption import MODULUS, RESIDUES, SLOTS, WORDS, Layout
from smpc_fl.errors import BadInput, DecryptionFailed, MalformedMessage
from smpc_fl.nodes.encryption import CkksKey
from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.messages import DecryptedSum, DecryptRequest, EncryptedSum, Refusal
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.ring import Ring

SIZES = (0, 1, 7, 8, 9, 65)


def _make_residues(rng: Random) -> tuple[int, bytes]:
    n = rng.choice(SIZES)
    words = np.array([rng.choice((0, MODULUS - 1, rng.randrange(MODULUS))) for _ in range(n)], RESIDUES.dtype)
    packed = memoryview(bytearray(RESIDUES.packed_size(n)))
    Ring(54).pack_into(words, packed)
    return n, bytes(packed) if rng.random() < 0.3 else mutations.mutate_bytes(
        rng, bytes(packed), [bytes(packed), b"\xff" * 65]
    )


def take_residues(given: tuple[int, bytes]) -> None:
    n, data = given
    words = RESIDUES.zeros(n)
    RESIDUES.unpack_into(data, words)
    if n and int(words.max()) >= MODULUS:
        raise Wrong("what is no residue was taken")
    again = memoryview(bytearray(RESIDUES.packed_size(n)))
    RESIDUES.pack_into(words, again)
    if bytes(again) != data:
        raise Wrong("residues have two spellings")
    RESIDUES.add_into(words, words.copy())
    if n and int(words.max()) >= MODULUS:
        raise Wrong("a sum of residues is none")


def _make_sum(rng: Random) -> tuple[Layout, Any]:
    layout = Layout(rng.randint(8, 64), rng.choice((1, 5, SLOTS)), rng.choice((3, 4, 1000)))
    cipher = ClearCipher()
    encoded = np.frombuffer(rng.randbytes(8 * layout.dimension), np.uint64) >> np.uint64(64 - layout.bits)
    total = layout.encrypt(encoded.astype(Ring(layout.bits).dtype), cipher)
    for _ in range(rng.choice((0, 0, 1, 3))):
        total[rng.randrange(SLOTS)] = rng.choice((0, MODULUS - 1, MODULUS // 2, rng.randrange(MODULUS)))
    return layout, total if rng.random() < 0.9 else RESIDUES.zeros(WORDS * (layout.words // WORDS))


def take_sum(given: tuple[Layout, Any]) -> None:
    layout, total = given
    found = layout.decrypt(total, ClearCipher())
    Ring(layout.bits).check(found, layout.dimension)


@cache
def _scene() -> tuple[EncryptedRig, Received, DecryptRequest, EncryptedSum]:
    rig, who, event, message = asked()
    assert who == "alice"
    return rig, event, message, codec.decode(message.released.body, EncryptedSum)


def _make_request(rng: Random) -> tuple[DecryptRequest, Any, bool]:
    rig, event, message, released = _scene()
    attached, fields = bytes(event.attachment), released.__struct_fields__
    draw = rng.random()
    if draw < 0.6:
        name = rng.choice(fields)
        other = grammar.draw(
            rng, EncryptedSum, {"manifest_hash": [released.manifest_hash], "digest": [released.digest]}
        )
        said = msgspec.structs.replace(released, **{name: getattr(other, name)})
        if name == "entries" and rng.random() < 0.7:
            said = msgspec.structs.replace(released, entries=rng.sample(released.entries, rng.randint(0, 4)))
        by = rng.choice(("aggregator-0", "aggregator-0", "bob", COORDINATOR))
        message = msgspec.structs.replace(message, released=rig.parties[by].sign(said))
    elif draw < 0.9:
        attached = mutations.mutate_bytes(rng, attached[:200], [attached[:50]]) + attached[200:]
    honest = attached == bytes(event.attachment) and message == event.message
    return (
        message,
        rng.choice((attached, memoryview(attached), attached, None)) if rng.random() < 0.2 else attached,
        honest,
    )


def take_request(given: tuple[DecryptRequest, Any, bool]) -> None:
    """One answer, or one refusal; and an answer to nothing but what the aggregator released over k_min owners."""
    message, attached, honest = given
    rig, _, _, released = _scene()
    node = rig.nodes["alice"]
    machine = rig._machine("alice", list(node.journal), node.bulk and bytearray(node.bulk))
    assert isinstance(machine, OwnerRound)
    sends = [
        getattr(command, "signed", None)
        for command in machine.receive(rig.from_(COORDINATOR, message, attached), rig.now)
    ]
    (said,) = [codec.decode_message(signed.body) for signed in sends if signed is not None]
    if isinstance(said, DecryptedSum):
        asked_for = codec.decode(message.released.body, EncryptedSum)
        if (
            asked_for.digest != released.digest
            or len(asked_for.entries) < 3
            or message.released.sender != "aggregator-0"
        ):
            raise Wrong("a sum was decrypted that should not be")
    elif (honest and attached is not None) or not isinstance(said, Refusal):
        raise Wrong(f"{type(said).__name__} to an honest request")


@cache
def _key() -> bytes:
    return CkksKey.make()


def _make_key(rng: Random) -> bytes:
    return mutations.mutate_bytes(rng, _key(), [_key()[:4096]])


def take_key(data: bytes) -> None:
    CkksKey(data)


def targets() -> list[Target]:
    return [
        Target("residues", _make_residues, take_residues, (MalformedMessage,), 0.5),
        Target("encrypted-sum", _make_sum, take_sum, (DecryptionFailed,), 0.2),
        Target("decrypt-request", _make_request, take_request, (), 0.1),
        Target("ckks-key", _make_key, take_key, (BadInput,), 0.02),
    ]
