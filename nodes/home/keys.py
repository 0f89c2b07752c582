"""Private keys on disk: one Ed25519 seed a file, mode 0600, made once and never overwritten.

Beside `NAME.key` stands `NAME.pub`, the public half, which is what a node hands out. The federation key is such a pair
too; its private file belongs on a machine, or a stick, that runs no node.

While a key is being replaced, its successor stands beside it, as `NAME.next.key`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, ConfigInvalid, SmpcError
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.nodes.home.files import read, sync_folder, write_new
from smpc_fl.roster import Membership, Roster
from smpc_fl.secret import Secret

HEADER = "smpc-fl private key, keep it to yourself: "


def public_path(path: Path) -> Path:
    """Where the public half of the key in `path` lies."""
    return path.with_suffix(".pub")


def next_path(path: Path) -> Path:
    """Where the successor of the key in `path` waits."""
    return path.with_name(f"{path.stem if path.suffix == '.key' else path.name}.next.key")


def make_key(path: Path, entropy: Entropy = os.urandom) -> Identity:
    """A new key in `path` (mode 0600) with its public half beside it. Raises `ConfigInvalid` if either file exists."""
    public = public_path(path)
    if public == path:
        raise ConfigInvalid(f"{path}: .pub is for public halves; name the private key something like {path.stem}.key")
    if public.exists():
        raise ConfigInvalid(f"{public} exists already and is not overwritten: move it away or choose another name")
    identity = Identity.generate(entropy)
    write_new(path, f"{HEADER}{identity.seed.reveal().hex()}\n".encode(), mode=0o600)
    write_new(public, f"{identity.public.hex}\n".encode())
    return identity


def load_key(path: Path) -> Identity:
    """The identity whose seed `path` holds. Raises `ConfigInvalid`, without a byte of the file, also when others than
    its user may read it."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: the private key cannot be read: {error.strerror}. `smpc-fl keygen` makes one"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigInvalid(f"{path}: not a file; `key` names the file that `smpc-fl keygen` made")
    if status.st_mode & 0o077:
        raise ConfigInvalid(
            f"{path}: others on this machine can read this private key: run `chmod 600 {path}`, and make a new key "
            "(`smpc-fl keygen`) if somebody may have"
        )
    data = read(path, "a private key", "`smpc-fl keygen` makes one", limit=1024)
    try:
        text = data.decode("ascii")
        if not text.startswith(HEADER):
            raise ValueError
        return Identity.from_seed(Secret(bytes.fromhex(text[len(HEADER) :])))
    except (ValueError, BadInput):
        raise ConfigInvalid(f"{path}: not a private key of `smpc-fl keygen`") from None


def take_successor(path: Path) -> None:
    """`NAME.next.key` becomes `NAME.key`; the bytes of the key that was there are overwritten. Raises `ConfigInvalid`."""
    successor = next_path(path)
    try:
        old = os.open(path, os.O_WRONLY)
        try:
            os.replace(public_path(successor), public_path(path))
            os.replace(successor, path)
            os.pwrite(old, bytes(os.fstat(old).st_size), 0)
            os.fsync(old)
        finally:
            os.close(old)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be replaced by {successor}: {error.strerror}") from None


class KeyRing:
    """A node's own keys: the one in `path` and, while it is being replaced, its successor, which may come later."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigInvalid`, as `load_key`."""
        self._path = path
        self._first = load_key(path)
        self._held = {self._first.public.key: self._first}
        self._looked: Roster | None = None

    def signer(self, id: str, membership: Membership) -> Identity:
        """Who signs and opens what goes by this roster: the key that it has for us (the first, if we have not that one)."""
        try:
            key = membership.roster.member(id).key
        except SmpcError:  # revoked, or not yet in it: peers will say so
            return self._first
        if key not in self._held and self._looked is not membership.roster:
            self._looked = membership.roster
            self._look()
        return self._held.get(key, self._first)

    def speaker(self, id: str, membership: Membership) -> Identity:
        """Who opens a connection and hands on the roster: the oldest key that is believed, for peers whose roster is older."""
        signer = self.signer(id, membership)
        try:
            believed = membership.former(id)
        except SmpcError:  # as above
            return signer
        former = [self._held[key.key] for key in believed if key.key in self._held]
        if former:
            return former[-1]
        self._first, self._held = signer, {signer.public.key: signer}  # a key that counts no more is not kept in memory
        return signer

    def _look(self) -> None:
        """Keys that have come since: a successor, or the successor in the first one's place."""
        for path in (self._path, next_path(self._path)):
            if path.exists():
                identity = load_key(path)
                self._held.setdefault(identity.public.key, identity)


def read_public(text: str) -> PublicIdentity:
    """A public key from 64 hex digits, or from the `.pub` file of that name. Raises `ConfigInvalid`."""
    path = Path(text)
    if path.suffix == ".pub":
        text = read(path, "a public key", "`smpc-fl keygen` writes it", limit=1024).decode("ascii", "replace")
    elif path.suffix == ".key":
        raise ConfigInvalid(f"{text} names a private key, which never leaves its node: give {public_path(path)}")
    try:
        return PublicIdentity.from_hex(text.strip())
    except BadInput:
        raise ConfigInvalid(f"{path}: a public key is 64 hex digits, or a .pub file that holds them") from None
