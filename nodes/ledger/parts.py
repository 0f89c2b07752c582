"""Where the two parts of a data set lie on disk: as safetensors bytes, in a place that a ledger chooses.

`OwnParts` is the node's own folder; `syft.SyftParts` publishes through Syft. The ledger keeps the digest of what it
wrote and parses the very bytes that it checked, so a file that changed behind its back is refused, not used.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from smpc_fl.errors import DatasetInvalid
from smpc_fl.hashing import digest

Array = npt.NDArray[Any]
Part = Literal["private", "mock"]


class PartStore(Protocol):
    """Bytes of data sets by name and part. Raises `OSError`s as they come; the ledger gives them words."""

    def put(self, name: str, private: bytes, mock: bytes, tags: Sequence[str], summary: str) -> None:
        """Write both parts durably; what an interrupted `put` left under this name is replaced."""

    def read(self, name: str, part: Part) -> bytes:
        """One part; `FileNotFoundError` where there is none."""

    def drop(self, name: str) -> None:
        """Erase both parts; nothing happens where there are none."""


class OwnParts:
    """`folder / name / {private,mock}.safetensors`, folders 0700, files 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, private: bytes, mock: bytes, tags: Sequence[str], summary: str) -> None:
        self.drop(name)
        make_private_folder(self._folder)
        target = make_private_folder(self._folder / name)
        write_durably(target / "private.safetensors", private)
        write_durably(target / "mock.safetensors", mock)

    def read(self, name: str, part: Part) -> bytes:
        return (self._folder / name / f"{part}.safetensors").read_bytes()

    def drop(self, name: str) -> None:
        target = self._folder / name
        if target.exists():
            shutil.rmtree(target)


def pack(tensors: Mapping[str, Array]) -> bytes:
    """Safetensors bytes of C-ordered little-endian copies."""
    plain = {name: np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")) for name, a in tensors.items()}
    return safetensors.numpy.save(plain)


def unpack(data: bytes, expected: bytes, name: str, part: Part) -> dict[str, Array]:
    """The arrays of a part whose digest is `expected`; `DatasetInvalid` otherwise."""
    if digest_of(data) != expected:
        raise DatasetInvalid(
            f"the {part} part of data set {name!r} was changed on disk after it was published: "
            f"remove the data set with `smpc-fl datasets remove {name}` and add it again",
        )
    return safetensors.numpy.load(data)


def digest_of(data: bytes) -> bytes:
    """32 bytes that name the bytes of one part."""
    return digest("smpc-fl/1 part", data)


def make_private_folder(folder: Path) -> Path:
    """`folder`, existing and at mode 0700; a link to one is refused (`OSError`)."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def write_durably(path: Path, data: bytes) -> None:
    """A new file at mode 0600, on disk with its name when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
