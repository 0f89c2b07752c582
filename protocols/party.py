"""Who I am and whom I believe: the signing side of every state machine.

A machine never believes a message because of the connection it came on: relayed statements (prekeys, endorsements,
receipts, lists, votes, aborts) are verified here, under the roster's keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpc_fl.errors import SmpcError
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.protocols import codec
from smpc_fl.protocols.codec import M
from smpc_fl.protocols.messages import LONGEST_TEXT, Message, Refusal, Signed
from smpc_fl.roster import Membership, Role


@dataclass(frozen=True)
class Party:
    """One member's identity, with the roster as it trusts it."""

    id: str
    identity: Identity
    membership: Membership

    @property
    def federation(self) -> bytes:
        return self.membership.federation

    def sign(self, message: Message) -> Signed:
        return codec.sign(message, identity=self.identity, sender=self.id, federation=self.federation)

    def refuse(self, error: SmpcError, phase: str, about: bytes) -> Signed:
        """What was wrong, for the peer. The text is cut to what a message may hold: names in it are the peer's choice."""
        return self.sign(Refusal(error.code, error.message[:LONGEST_TEXT], phase, about))

    def key_of(self, member: str, role: Role | None = None) -> PublicIdentity:
        """A member's key, as what is sealed goes by it; raises `UnknownMember`, `RevokedKey` or `WrongRole`."""
        return self.membership.key_of(member, role)

    def read(self, signed: Signed, role: Role | None = None) -> Message:
        """The message that a member (of `role`) signed."""
        return codec.verify(signed, self.membership.believed(signed.sender, role), federation=self.federation)

    def check(self, signed: Signed, role: Role) -> None:
        """Raises unless a member of `role` signed what is in the envelope, which is not read."""
        codec.check_signature(signed, self.membership.believed(signed.sender, role), federation=self.federation)

    def open(self, signed: Signed, kind: type[M], role: Role, *, phase: str) -> M:
        """The statement of type `kind` that a member of `role` signed."""
        return codec.expect(self.read(signed, role), kind, peer=signed.sender, phase=phase)
