"""Every field of every message of a round, swapped on its way: for another value of its type, and for what it is in another run,
round, attempt and federation. Fields are found by walking the structures, so a new one is covered without a word here.

Whoever sends a message can sign it again, so each swap is signed anew by the member whose statement it is (also inside: an
endorsement in an offer by its aggregator). What a stranger could do is less: it has no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from rig import Rig

from smpc_fl.privacy.mechanism import Noise
from smpc_fl.protocols import codec
from smpc_fl.protocols.messages import Message, Signed

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Swap:
    """`path`: from the message that travels to the field, through envelopes and lists; `message`: what travels instead."""

    kind: str
    path: Path
    message: Message

    @property
    def name(self) -> str:
        """As "RoundOffer.manifest.cohort": positions in lists are left out."""
        return ".".join([self.kind, *(step for step in self.path if isinstance(step, str))])


def flipped(value: Any) -> Any:
    """Another value of the same type, that its rules allow."""
    match value:
        case bool():
            return not value
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else bytes(32)
        case int() | float():
            return value + 1
        case "train":
            return "evaluate"
        case "":
            return "x"
        case None:
            return Noise(4, 1, 0)
        case str():
            return value[:-1] + ("a" if value[-1:] != "a" else "b")
        case _:
            return NOTHING


NOTHING = object()


def _lists(value: list[Any]) -> list[Any]:
    """Other lists of the same things: shorter, doubled, in another order, none."""
    others = [value[1:], value[:-1], value[::-1], [*value, *value[:1]], []]
    return [other for place, other in enumerate(others) if other != value and other not in others[:place]]


def swaps(message: Message, others: list[Any], rig: Rig) -> Iterator[Swap]:
    """Every swap in a message. `others`: messages of the same type from elsewhere. A swap whose name ends in "forged" is one
    that nobody can sign: an envelope inside that was changed and kept its signature, or was given another's."""
    for path, value in _walk(message, others, rig):
        yield Swap(type(message).__name__, path, value)


def _walk(value: Any, others: list[Any], rig: Rig) -> Iterator[tuple[Path, Any]]:
    """(where, the whole `value` with something else there)."""
    match value:
        case Signed():
            inner = codec.decode_message(value.body)
            from_others = [codec.decode_message(other.body) for other in others if isinstance(other, Signed)]
            same = [other for other in from_others if type(other) is type(inner)]
            for path, changed in _walk(inner, same, rig):
                yield path, rig.parties[value.sender].sign(changed)
                yield (*path, "forged"), msgspec.structs.replace(value, body=codec.encode(changed))
            for other in others:
                if isinstance(other, Signed) and other != value:
                    yield ("foreign",), other
                    yield ("forged",), msgspec.structs.replace(value, signature=other.signature)
                    yield ("forged",), msgspec.structs.replace(other, sender="eve")
        case msgspec.Struct():
            for name in value.__struct_fields__:
                item = getattr(value, name)
                elsewhere = [getattr(other, name) for other in others if type(other) is type(value)]
                for path, changed in _walk(item, elsewhere, rig):
                    yield (name, *path), msgspec.structs.replace(value, **{name: changed})
        case list():
            for other in _lists(value):
                yield ("list",), other
            for other in others:
                if other != value:
                    yield ("list",), other
            for at, item in enumerate(value[:2]):
                elsewhere = [other[at] for other in others if isinstance(other, list) and len(other) > at]
                for path, changed in _walk(item, elsewhere, rig):
                    yield (at, *path), [*value[:at], changed, *value[at + 1 :]]
        case _:
            seen = [value]
            for other in (flipped(value), *others):
                if other is not NOTHING and other not in seen:
                    seen.append(other)
                    yield (), other
