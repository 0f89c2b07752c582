"""What two people hand to each other by mail or on a stick: one structure in one line of text, read strictly."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TypeVar

import msgspec

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.files import read

T = TypeVar("T", bound=msgspec.Struct)
_LIMIT = 4096
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def _mark(kind: type[msgspec.Struct]) -> str:
    return f"smpc-fl {kind.__name__.lower()}: "


def to_letter(value: msgspec.Struct) -> str:
    """One line, with what it is in front."""
    return _mark(type(value)) + base64.b64encode(_encoder.encode(value)).decode() + "\n"


def read_letter(path: Path, kind: type[T], remedy: str) -> T:
    """The structure in a letter's file. Raises `ConfigInvalid` for anything but the one spelling of one."""
    data = read(path, f"a {kind.__name__.lower()}", remedy, limit=_LIMIT)
    try:
        text = data.decode("ascii").strip()
        body = base64.b64decode(text.removeprefix(_mark(kind)), validate=True)
        value = msgspec.msgpack.decode(body, type=kind)
    except (UnicodeDecodeError, binascii.Error, ValueError, msgspec.DecodeError):
        raise ConfigInvalid(f"{path}: not a {kind.__name__.lower()}. {remedy}") from None
    if to_letter(value).strip() != text:
        raise ConfigInvalid(f"{path}: not a {kind.__name__.lower()} as it was written. {remedy}")
    return value
