"""Small files that must be whole, and secret ones that only this user reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from smpc_fl.errors import ConfigInvalid


def sync_folder(folder: Path) -> None:
    """The names in the folder are durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Makes a file that is not there yet. Raises `ConfigInvalid` if it is, or cannot be written."""
    if os.path.lexists(path):
        raise ConfigInvalid(f"{path} exists already and is not overwritten: move it away or choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_all(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be written: {error.strerror}") from None


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes a file as a whole: after a crash there is the old one or the new one. Raises `ConfigInvalid`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _write_all(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigInvalid(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path, what: str, remedy: str, limit: int = 1 << 22) -> bytes:
    """A small file's bytes. Raises `ConfigInvalid` saying what the file should have been and where it comes from."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigInvalid(f"{path}: {what} cannot be read: {error.strerror}. {remedy}") from None
    if len(data) > limit:
        raise ConfigInvalid(f"{path}: over {limit} bytes, so it is not {what}. {remedy}")
    return data


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700, or one that nobody else may read. Raises `ConfigInvalid`."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigInvalid(f"{path}: a node's home cannot be made: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigInvalid(f"{path}: a node's home must be closed to others: run `chmod 700 {path}`")
    return path


def refuse_links(home: Path) -> None:
    """Raises `ConfigInvalid` if there is a link in a home: what is written under its name would go elsewhere. (The home
    itself may be one.)"""
    for folder, folders, names in os.walk(home):
        for name in [*folders, *names]:
            if os.path.islink(os.path.join(folder, name)):
                raise ConfigInvalid(
                    f"{os.path.join(folder, name)} is a link, and a node writes nowhere but to its own home: put what it "
                    "points to in its place"
                )


_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# A node of smpc-fl keeps the secrets of its open rounds here: a copy of this folder is one of keys that are to be erased.
# `smpc-fl backup` copies what may lie elsewhere. (The signature is that of bford.info/cachedir, which backup programs know.)
"""


def leave_out_of_backups(folder: Path) -> None:
    """Ask backup programs to pass by, in the ways that they know. Raises `ConfigInvalid`."""
    for name, content in (("CACHEDIR.TAG", _TAG), (".nobackup", b"")):
        if not (folder / name).exists():
            write_new(folder / name, content)
