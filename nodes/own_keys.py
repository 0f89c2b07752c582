"""Who this node is, by the roster as it stands: which of its keys signs what, while one of them is being replaced.

Rounds go by the key that the roster has: all parties to a manifest have the same roster. Handshakes, and what the node says
by itself, go by the key that is being replaced, as long as it is believed: a peer that has not got the newer roster yet
knows no other, and is handed the roster with it.
"""

from __future__ import annotations

from smpc_fl.nodes.home.config import NodeConfig
from smpc_fl.nodes.home.keys import KeyRing
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.protocols.messages import Message, Signed
from smpc_fl.protocols.party import Party


class OwnKeys(LocalMember):
    """A member with its keys, as `authenticate` takes it. Raises `ConfigInvalid` when the key cannot be read."""

    def __init__(self, config: NodeConfig, role: str, members: LiveMembership) -> None:
        self._ring, self._members = KeyRing(config.key), members
        super().__init__(config.id, role, self._ring.speaker(config.id, members.current), members)

    def sign(self, message: Message) -> Signed:
        self.identity = self._ring.speaker(self.id, self._members.current)
        return super().sign(message)

    @property
    def party(self) -> Party:
        """This member with the roster as it stands now, for rounds."""
        current = self._members.current
        return Party(self.id, self._ring.signer(self.id, current), current)
