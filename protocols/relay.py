"""Commands and answers between a researcher and one owner, carried by the coordinator, who can neither make nor open them.

A command is signed by the researcher for one owner, under a session and a growing sequence number, so a replay is
useless. It is not secret (it names operations, never values). Its answer is sealed to a key made for this command alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smpc_fl.entropy import Entropy
from smpc_fl.errors import MalformedMessage, WrongRole
from smpc_fl.hashing import digest
from smpc_fl.protocols.messages import Answer, Command, Signed
from smpc_fl.protocols.party import Party
from smpc_fl.sealing import Agreement, KeyPair, open_small, seal_small

PHASE = "pointer"
_KIND = "owner>researcher answer"


def _about(session: bytes, sequence: int) -> bytes:
    return session + sequence.to_bytes(8, "little")


@dataclass(frozen=True)
class Asked:
    """A command under way: what its answer will be held against."""

    owner: str
    signed: Signed
    command: Command
    reply: KeyPair = field(repr=False)

    def open(self, signed: Signed, party: Party) -> bytes:
        """The response in an owner's signed `Answer` to this very command."""
        answer = party.open(signed, Answer, "owner", phase=PHASE)
        command = self.command
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


def accept(party: Party, signed: Signed) -> Command:
    """At the owner: the command in an envelope, if a researcher of the roster signed it for this owner."""
    command = party.open(signed, Command, "researcher", phase=PHASE)
    if command.owner != party.id:
        raise WrongRole("this command is for another owner", peer=signed.sender, phase=PHASE)
    return command


def answer(party: Party, signed: Signed, command: Command, response: bytes, entropy: Entropy) -> Signed:
    """The owner's answer, which only the researcher who signed the command can open."""
    ephemeral = KeyPair.generate(entropy)
    key = Agreement(ephemeral, command.reply_key).key(
        sender=party.identity.public,
        receiver=party.key_of(signed.sender, "researcher"),
        manifest_hash=_command_hash(signed),
        about=_about(command.session, command.sequence),
        kind=_KIND,
    )
    return party.sign(Answer(command.session, command.sequence, ephemeral.public, seal_small(key, response)))


def _command_hash(signed: Signed) -> bytes:
    return digest("smpc-fl/1 command", signed.sender.encode(), signed.body)
