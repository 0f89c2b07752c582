"""An update of one element could be guessed, and each guess tested against its commitment, if that were not blinded.

The attacker knows all that anybody but the owner and one aggregator knows: every seed but one or the vector's key, all
commitments, all sealed bytes. Both kinds of commitment are attacked: H(blinder, seed) of a seed holder, and H(blinder, tags of
the sealed vector) of a carrier. As the control, the same attacks find the update where the blinder is known, which a fixed
one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rig import Draws, Rig

from smpc_fl.hashing import Buffer
from smpc_fl.protocols import owner as owner_module
from smpc_fl.protocols import vectors
from smpc_fl.protocols.messages import SeedReport, VectorReport
from smpc_fl.protocols.owner import State
from smpc_fl.protocols.records import Reporting
from smpc_fl.ring import ring
from smpc_fl.shares import BLINDER_SIZE, Context, Shares, carrier, commitment, split, stream

OWNERS = ("alice", "bob", "carol")
GUESSES = [number / 256 - 1 for number in range(512)]
"""Everything that the update may be, to the attacker's knowledge."""
VALUE = GUESSES[300]
FEW = 1 << 10
"""Seeds that a generator has whose seeds are folded to ten bits."""
NO_BLINDER = bytes(BLINDER_SIZE)


def reported(monkeypatch: pytest.MonkeyPatch, *, plain: bool = False, weak: bool = False) -> Rig:
    """A round that has just begun to report alice's one element. Planted: commitments that are not blinded, over the vector
    itself instead of its sealed chunks' tags; seeds of which there are few."""
    draws = Draws("small")

    def entropy(n: int, /) -> bytes:
        data = draws(n)
        return (int.from_bytes(data, "little") % FEW).to_bytes(n, "little") if weak else data

    def bare(blinder: bytes, share: Buffer) -> bytes:
        return commitment(NO_BLINDER, share)

    if plain:
        monkeypatch.setattr(owner_module, "commitment", bare)

    def worn(x: Any, of: Any, context: Any, names: Any, to: Any, _: Any, **more: Any) -> Shares:
        return split(x, of, context, names, to, entropy, **more)

    if weak:
        monkeypatch.setattr(owner_module, "split", worn)
    rig = Rig({owner: np.array([VALUE]) for owner in OWNERS}, aggregators=2, ring_bits=32)
    rig.begin()
    while rig.owner().state is not State.SEEDING:
        rig.deliver(*rig.queue.popleft())
    return rig


class Attack:
    """On alice's report: `seeds` are known but for the one that is attacked."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.hash = rig, rig.coordinator.manifest_hash
        names = list(rig.plan.aggregators)
        self.carrier = carrier("alice", rig.plan.cohort, rig.plan.round, names)
        (self.holder,) = set(names) - {self.carrier}
        report = next(m for by, _, m in rig.said if by == "alice" and isinstance(m, SeedReport))
        self.of = dict(zip(names, report.commitments, strict=True))
        (self.kept,) = (r for r in rig.written["alice"] if isinstance(r, Reporting))
        self.sealed = bytes(rig.owner()._sealed or b"")

    def elements(self, value: float) -> Any:
        return self.rig.plan.numbers.fixed_point.encode(np.array([value]))

    def share(self, seed: bytes) -> Any:
        return stream(seed, Context(self.hash, "alice"), self.holder).expand(ring(32), 1)

    def vector(self, blinder: bytes, name: Callable[[Any], list[bytes]]) -> list[float]:
        """The values for which the vector share, made with the known seed, would have this commitment; `name` gives what
        could stand for a vector in it."""
        known = self.share(self.kept.seeds[self.holder])
        return [
            value
            for value in GUESSES
            if any(commitment(blinder, each) == self.of[self.carrier] for each in name(self.elements(value) - known))
        ]

    def seed(self, blinder: bytes) -> list[int]:
        """The few seeds that would have the seed holder's commitment."""
        return [n for n in range(FEW) if commitment(blinder, n.to_bytes(32, "little")) == self.of[self.holder]]


def names_of_a_vector(attack: Attack) -> Callable[[Any], list[bytes]]:
    """What an attacker can compute that might stand for a vector: itself, and the bytes that it saw on the wire with it."""
    return lambda words: [words.tobytes(), words.tobytes() + attack.sealed[-16:], words.tobytes() + attack.sealed]


def test_there_is_nothing_to_guess_a_vector_against(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(reported(monkeypatch))
    for blinder in (NO_BLINDER, attack.kept.seeds[attack.holder], *attack.of.values()):
        assert attack.vector(blinder, names_of_a_vector(attack)) == []


def test_a_commitment_to_the_vector_itself_without_a_blinder_gives_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control. (The very blinder, which travels sealed to the carrier, would do the same: it is what hides.)"""

    class Plain(vectors.VectorSealer):
        def __call__(self, chunk: Any) -> None:
            super().__call__(chunk)
            self.tags = bytearray(chunk.tobytes())

    monkeypatch.setattr(vectors, "VectorSealer", Plain)
    attack = Attack(reported(monkeypatch, plain=True))
    assert attack.vector(NO_BLINDER, names_of_a_vector(attack)) == [VALUE]
    monkeypatch.setattr(owner_module, "commitment", commitment)
    blinded = Attack(reported(monkeypatch))
    names = names_of_a_vector(blinded)
    assert blinded.vector(NO_BLINDER, names) == []
    own = blinded.kept.blinders[list(blinded.rig.plan.aggregators).index(blinded.carrier)]
    assert blinded.vector(own, names) == [VALUE]


def test_tags_tell_nothing_even_without_a_blinder(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on the wire, and only who has the key of the vector could say which vector has them."""
    attack = Attack(reported(monkeypatch, plain=True))
    assert commitment(NO_BLINDER, attack.sealed[-16:]) == attack.of[attack.carrier]
    assert attack.vector(NO_BLINDER, names_of_a_vector(attack)) == []


def test_there_is_nothing_to_guess_a_seed_against(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if seeds could be guessed: then it is the blinder that hides them here."""
    for weak in (False, True):
        attack = Attack(reported(monkeypatch, weak=weak))
        for blinder in (NO_BLINDER, *attack.of.values()):
            assert attack.seed(blinder) == []


def test_a_seed_that_can_be_guessed_is_found_without_a_blinder(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(reported(monkeypatch, plain=True, weak=True))
    (found,) = attack.seed(NO_BLINDER)
    assert found.to_bytes(32, "little") == attack.kept.seeds[attack.holder]


def test_equal_updates_have_nothing_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three owners with one value: no commitment, sealed byte string or share of one occurs at another."""
    rig = reported(monkeypatch)
    rig.finish()
    seen: list[bytes] = []
    for by, send, message in rig.said:
        if isinstance(message, SeedReport | VectorReport):
            seen += [message.sealed, *(message.commitments if isinstance(message, SeedReport) else [])]
            seen += [bytes(send.attachment)] if send.attachment else []
            assert by in OWNERS
    assert len(seen) == len(set(seen)) >= 9
