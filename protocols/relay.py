"""Commands and answers between a researcher and one owner, carried by the coordinator, who can neither make nor open them.

A command is signed by the researcher for one owner, under a session and a growing sequence number, so a replay is
useless. It is not secret (it names operations, never values). Its answer is sealed to a key made for this command alone.

A command that an owner cannot take is refused, signed by the owner and bound to the command's bytes. What is refused, and
why, follows from the envelope and the roster alone, which whoever carries it knows: a refusal tells nothing new, and the
coordinator, which could provoke one by spoiling a signature, gains no more by it than by carrying nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smpc_fl.entropy import Entropy
from smpc_fl.errors import MalformedMessage, SmpcError, WrongRole, from_code
from smpc_fl.hashing import digest
from smpc_fl.protocols.codec import expect
from smpc_fl.protocols.messages import Answer, Command, Refusal, Signed
from smpc_fl.protocols.party import Party
from smpc_fl.sealing import Agreement, KeyPair, open_small, seal_small

PHASE = "pointer"
_KIND = "owner>researcher answer"
_CLOCK = 6
"""Bytes of a session's id that say when it began."""


def session_id(now: float, entropy: Entropy) -> bytes:
    """16 bytes that name a session: milliseconds since the epoch (`now` in seconds), then random. In the order in which a
    researcher's sessions began, so that an owner can forget the old ones and still take nothing of them."""
    return int(now * 1000).to_bytes(_CLOCK, "big") + entropy(16 - _CLOCK)


def begun(session: bytes) -> float:
    """When a session says that it began, in seconds since the epoch."""
    return int.from_bytes(session[:_CLOCK], "big") / 1000


def _about(session: bytes, sequence: int) -> bytes:
    return session + sequence.to_bytes(8, "little")


@dataclass(frozen=True)
class Asked:
    """A command under way: what its answer will be held against."""

    owner: str
    signed: Signed
    command: Command
    reply: KeyPair = field(repr=False)

    def read(self, signed: Signed, party: Party) -> bytes | SmpcError:
        """The response in an owner's signed `Answer` to this very command, or what its signed `Refusal` says. Raises
        `MalformedMessage` for what is about another command."""
        command = self.command
        message = party.read(signed, "owner")
        if isinstance(message, Refusal) and signed.sender == self.owner and message.about == _command_hash(self.signed):
            return from_code(message.code, message.text, peer=self.owner, phase=PHASE)
        answer = expect(message, Answer, peer=signed.sender, phase=PHASE)
        if signed.sender != self.owner or (answer.session, answer.sequence) != (command.session, command.sequence):
            raise MalformedMessage("an answer to another command", peer=signed.sender, phase=PHASE)
        key = Agreement(self.reply, answer.ephemeral).key(
            sender=party.key_of(self.owner, "owner"),
            receiver=party.identity.public,
            manifest_hash=_command_hash(self.signed),
            about=_about(answer.session, answer.sequence),
            kind=_KIND,
        )
        return open_small(key, answer.sealed)


def ask(party: Party, owner: str, session: bytes, sequence: int, request: bytes, entropy: Entropy) -> Asked:
    """A researcher's command to `owner`."""
    reply = KeyPair.generate(entropy)
    command = Command(session, sequence, owner, request, reply.public)
    return Asked(owner, party.sign(command), command, reply)


@dataclass(frozen=True)
class Taken:
    """A command at its owner, and the key that its answer will be sealed with."""

    party: Party
    command: Command
    _ephemeral: bytes
    _key: bytes = field(repr=False)

    def answer(self, response: bytes) -> Signed:
        """Only the researcher who signed the command can open it."""
        about = self.command.session, self.command.sequence
        return self.party.sign(Answer(*about, self._ephemeral, seal_small(self._key, response)))


def accept(party: Party, signed: Signed, entropy: Entropy) -> Taken:
    """At the owner: the command in an envelope, if a researcher of the roster signed it for this owner, and its answer can
    be sealed. Raises what it is to be refused with (`refuse`)."""
    command = party.open(signed, Command, "researcher", phase=PHASE)
    if command.owner != party.id:
        raise WrongRole("this command is for another owner", peer=signed.sender, phase=PHASE)
    ephemeral = KeyPair.generate(entropy)
    key = Agreement(ephemeral, command.reply_key).key(
        sender=party.identity.public,
        receiver=party.key_of(signed.sender, "researcher"),
        manifest_hash=_command_hash(signed),
        about=_about(command.session, command.sequence),
        kind=_KIND,
    )
    return Taken(party, command, ephemeral.public, key)


def refuse(party: Party, signed: Signed, error: SmpcError) -> Signed:
    """At the owner: why the command in an envelope, whoever made it, is not taken."""
    return party.refuse(error, PHASE, _command_hash(signed))


def _command_hash(signed: Signed) -> bytes:
    return digest("smpc-fl/1 command", signed.sender.encode(), signed.body)
