"""Private keys on disk: one Ed25519 seed a file, mode 0600, made once and never overwritten.

Beside `NAME.key` stands `NAME.pub`, the public half, which is what a node hands out. The federation key is such a pair
too; its private file belongs on a machine, or a stick, that runs no node.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, ConfigInvalid
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.nodes.home.files import read, write_new
from smpc_fl.secret import Secret

HEADER = "smpc-fl private key, keep it to yourself: "


def public_path(path: Path) -> Path:
    """Where the public half of the key in `path` lies."""
    return path.with_suffix(".pub")


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
