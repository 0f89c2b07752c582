"""What every member of a run on shared tensors has in common: the key that it gives once, what it checks of the statement and
the program, and how a failure is said and heard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    ComputationRefused,
    Equivocation,
    LimitExceeded,
    RunFailed,
    SmpcError,
    Unavailable,
    from_code,
)
from smpc_fl.protocols import computing_program as programs
from smpc_fl.protocols.commands import Persist, Send, WakeAt
from smpc_fl.protocols.computing import KEY_LIFE, PHASE, Command, ComputingRules, RunTaken, Terms, check
from smpc_fl.protocols.computing_program import Checked
from smpc_fl.protocols.messages import LONGEST_TEXT, ComputationFailed, ComputationOffer, ComputingKey
from smpc_fl.protocols.party import Party
from smpc_fl.sealing import KeyPair


class Member(ABC):
    """A party or the crypto provider, in a run that `researcher` has asked for."""

    def __init__(self, party: Party, rules: ComputingRules, run: bytes, researcher: str, entropy: Entropy) -> None:
        self.run = run
        self.researcher = researcher
        self._party, self._rules = party, rules
        self._own: KeyPair | None = KeyPair.generate(entropy)
        self._terms: Terms | None = None
        self._until = 0.0

    @abstractmethod
    def _end(self, error: SmpcError | None) -> list[Command]:
        """The run is over here, and its secrets are gone."""

    def _give_key(self, now: float) -> list[Command]:
        self._until = now + KEY_LIFE
        assert self._own is not None
        key = self._party.sign(ComputingKey(self.run, self._own.public))
        return [Persist(RunTaken()), Send(self.researcher, key), WakeAt(self._until)]

    def _agreed(self, offer: ComputationOffer, now: float) -> Terms:
        """The statement, of this run and of its researcher."""
        terms = check(offer.computation, self._party, now=now)
        if terms.owner != self.researcher or terms.statement.run != self.run:
            raise ComputationRefused("this is the statement of another run", phase=PHASE)
        return terms

    def _program(self, offer: ComputationOffer, terms: Terms, role: Literal["party", "provider"]) -> Checked:
        """The program that the statement names, within this member's limit."""
        checked = programs.read(offer.program)
        if checked.digest != terms.statement.program:
            raise ComputationRefused("the program is not the one that the statement names", phase=PHASE)
        if checked.size > self._rules.most:
            raise LimitExceeded(
                f"the program makes values of {checked.size} bytes, this {role}'s limit is {self._rules.most}: "
                "run it in parts",
                phase=PHASE,
            )
        return checked

    @property
    def _members(self) -> frozenset[str]:
        """Who hears of a failure, and may tell of one. Before the statement that is the researcher alone."""
        return frozenset({self.researcher}) if self._terms is None else self._terms.members

    def _fail(self, error: SmpcError) -> list[Command]:
        """Everybody hears of it at once: nobody waits for its deadline."""
        blame(error, self._party.id)
        failed = self._party.sign(failure(self.run, error))
        told: list[Command] = [Send(member, failed) for member in sorted(self._members) if member != self._party.id]
        return [*told, *self._end(error)]

    def _told(self, sender: str, failed: ComputationFailed) -> list[Command]:
        # Others have nothing to say here; before the statement, a member may have heard of a failure that is on its way to us.
        return self._end(error_in(failed)) if sender in self._members else []


def blame(error: SmpcError, member: str) -> None:
    """What names nobody is this member's own, but for different openings, of which nobody can tell whose they are."""
    error.phase = error.phase or PHASE
    if not isinstance(error, Equivocation):
        error.peer = error.peer or member


def failure(run: bytes, error: SmpcError) -> ComputationFailed:
    return ComputationFailed(run, error.code, error.message[:LONGEST_TEXT], error.peer or "")


def error_in(failed: ComputationFailed) -> SmpcError:
    """What a member has ended a run with."""
    return from_code(failed.code, failed.text, peer=failed.member or None, phase=PHASE)


def lost(peer: str) -> SmpcError:
    return Unavailable(
        f"the connection to {peer} was lost in the midst of the run, of which nothing is left: run it again",
        peer=peer,
        phase=PHASE,
    )


def late(peers: Sequence[str]) -> SmpcError:
    return RunFailed(
        f"the deadline passed while {', '.join(peers)} had not said what the run waits for: run it again",
        peer=peers[0] if peers else None,
        phase=PHASE,
    )
