"""The roster as a running node lives with it: what its operator accepted, and what has come since.

Two files. `roster` in the config is what the operator accepted: everybody in it is trusted. `roster.latest` in the
node's home is the newest signed roster that any peer has offered; its revocations count at once, its new owners and
aggregators wait for `smpc-fl roster accept`, which copies it over the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from smpc_fl.errors import ConfigInvalid, SmpcError
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.home.config import NodeConfig, OwnerConfig
from smpc_fl.nodes.home.files import private_folder, read, replace
from smpc_fl.nodes.home.roster_file import date_of
from smpc_fl.roster import MAX_ROSTER, Member, Membership, Role, accept_update, everybody, nobody, open_roster

LATEST = "roster.latest"


def read_signed(path: Path) -> bytes:
    """The bytes of a signed roster file; not believed yet. Raises `ConfigInvalid`."""
    return read(path, "a signed roster", "Ask whoever holds the federation key for it", limit=MAX_ROSTER)


def accepted_membership(config: NodeConfig, now: float | None = None) -> tuple[Membership, bytes]:
    """The roster that the node's operator accepted, and its signed bytes. Raises `ConfigInvalid`."""
    now = time.time() if now is None else now
    signed = read_signed(config.roster)
    try:
        return Membership(open_roster(signed, config.federation), config.federation, when=now), signed
    except SmpcError as error:
        raise ConfigInvalid(f"{config.roster}: {error.message}") from None


class LiveMembership:
    """Who may talk to this node, now. Looked up anew at every handshake and message, so that changes count at once.

    An owner approves new owners and aggregators itself; the other roles believe the federation's signature. A member that
    has replaced its key is approved if its new key is signed by the approved one; the log tells the operator."""

    def __init__(self, config: NodeConfig, clock: Callable[[], float] = time.time) -> None:
        """Reads both files. Raises `ConfigInvalid`."""
        self._config = config
        self._clock = clock
        self._approve = nobody if isinstance(config, OwnerConfig) else everybody
        self._latest = private_folder(config.home) / LATEST
        self._read()

    def _read(self) -> None:
        self._stamp = self._stamp_of(self._config.roster)
        current, signed = accepted_membership(self._config, self._clock())
        if self._latest.exists():
            offered = read_signed(self._latest)
            try:
                newer = accept_update(current, offered, self._approve)
            except SmpcError as error:
                raise ConfigInvalid(f"{self._latest} does not go with {self._config.roster}: {error.message}") from None
            if newer is not current:
                current, signed = newer, offered
        self._current, self._signed = current, signed

    @staticmethod
    def _stamp_of(path: Path) -> tuple[int, int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def offer(self, signed: bytes) -> bool:
        """Takes a roster that a peer offered; True if the membership changed (it is on disk then).

        Raises the errors of `roster.accept_update`; nothing has changed then."""
        if signed == self._signed:
            return False
        before = self.current
        newer = accept_update(before, signed, self._approve)
        if newer is before:
            return False
        replace(self._latest, signed, mode=0o600)
        self._current, self._signed = newer, signed
        self._tell_rotations(before)
        return True

    def refresh(self) -> bool:
        """Reads the accepted roster again if its file changed (`smpc-fl roster accept`); True if the membership did.

        Raises `ConfigInvalid`, once for each new content of the file, if it cannot be believed (or is still being
        written); the membership stays as it was then."""
        if self._stamp_of(self._config.roster) in (None, self._stamp):
            return False
        before = self._current
        self._read()
        self._tell_rotations(before)
        return self._current != before

    def _tell_rotations(self, before: Membership) -> None:
        import structlog  # the command line reads rosters too, and would pay for it at every call

        for rotation in self._current.roster.rotations:
            if rotation not in before.roster.rotations:
                until = date_of(rotation.until)
                new = PublicIdentity(rotation.new).fingerprint
                message = f"new key {new}, signed by the one before, which counts until {until}"
                structlog.get_logger().warning("key replaced", peer=rotation.id, message=message)

    @property
    def current(self) -> Membership:
        self._current = self._current.at(self._clock())
        return self._current

    @property
    def signed(self) -> bytes:
        """The newest roster, as the federation key signed it, for `RosterOffer`."""
        return self._signed

    def member(self, id: str) -> Member:
        return self.current.member(id)

    def key_of(self, id: str, role: Role | None = None) -> PublicIdentity:
        """What a message over a link is verified with: see `Membership.believed`."""
        return self.current.believed(id, role)

    def lookup(self, id: str) -> tuple[PublicIdentity, Role]:
        return self.current.lookup(id)

    @property
    def federation(self) -> bytes:
        return self._current.federation

    @property
    def roster_version(self) -> int:
        return self._current.roster_version

    @property
    def roster_hash(self) -> bytes:
        return self._current.roster_hash
