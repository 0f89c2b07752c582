"""Canaries: values that must never turn up outside their owner, in every spelling that they could turn up in."""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

CHANCE = 1e-8
"""Hits that random bytes would have had with a greater probability than this prove nothing. Most of what is searched is
ciphertext, and a short pattern turns up in megabytes of it; what leaks does so in every round, on the wire and on disk."""


def _encoded(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Raw bytes as they are, in hex and in base64, wherever the base64 began."""
    yield name, raw
    yield f"{name} hex", raw.hex().encode()
    yield f"{name} HEX", raw.hex().upper().encode()
    for text in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        yield f"{name} base64", text
    if len(raw) >= 8:
        for before in range(3):
            # The letters that depend on nothing but `raw`, after so many bytes of something else.
            whole = base64.b64encode(bytes(before) + raw)
            first = -(-before * 8 // 6)
            last = (before + len(raw)) * 8 // 6
            yield f"{name} base64 +{before}", whole[first:last]


def float_patterns(value: float) -> Iterator[tuple[str, bytes]]:
    """Binary forms of a number: float32 and float64, both byte orders; msgpack's are among these."""
    for name, kind in (("float32", "f"), ("float64", "d")):
        for order, mark in (("little", "<"), ("big", ">")):
            yield from _encoded(f"{name} {order}", struct.pack(mark + kind, value))
    rounded = struct.unpack("<f", struct.pack("<f", value))[0]
    for order, mark in (("little", "<"), ("big", ">")):
        yield from _encoded(f"float64 of float32 {order}", struct.pack(mark + "d", rounded))
    yield "hexadecimal float", value.hex().split("p")[0].encode()


def integer_patterns(value: int) -> Iterator[tuple[str, bytes]]:
    """Binary forms of a whole number: 32 and 64 bits, both byte orders, msgpack, and as a float."""
    for name, kind in (("int32", "I"), ("int64", "Q")):
        for order, mark in (("little", "<"), ("big", ">")):
            yield from _encoded(f"{name} {order}", struct.pack(mark + kind, value))
    yield "msgpack", msgspec.msgpack.encode(value)
    yield from float_patterns(float(value))


def run_patterns(values: Iterable[float]) -> Iterator[tuple[str, bytes]]:
    """Neighbours in a row, as they lie in a tensor: long enough for base64 at any offset."""
    numbers = list(values)
    for name, kind in (("float32", "f"), ("float64", "d")):
        for order, mark in (("little", "<"), ("big", ">")):
            yield from _encoded(f"{name} row {order}", struct.pack(f"{mark}{len(numbers)}{kind}", *numbers))


def decimal_pattern(value: float) -> re.Pattern[bytes]:
    """The number in writing, to five digits or more, with or without an exponent."""
    whole = f"{abs(value):.7g}"
    plain = re.escape(whole[:6])
    digits = whole.replace(".", "")
    exponent = rf"{digits[0]}\.{digits[1:4]}\d*[eE]"
    return re.compile(rf"{plain}|{exponent}".encode())


def count_pattern(value: int) -> re.Pattern[bytes]:
    """A whole number in writing, with or without separators, not within a longer number or a hexadecimal string."""
    text = str(value)
    parted = [f"{value:,}", f"{value:_}", f"{value:,}".replace(",", " "), f"{value:,}".replace(",", "'")]
    return re.compile(rb"(?<![0-9A-Za-z])(?:%s)(?![0-9A-Za-z])" % b"|".join(map(re.escape, [text.encode(), *[
        each.encode() for each in parted]])))  # fmt: skip


@dataclass
class Scanner:
    """Looks for canaries, and adds up what it finds: {(canary, spelling): [where, …]}."""

    patterns: dict[tuple[str, str], bytes | re.Pattern[bytes]] = field(default_factory=dict)
    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    scanned: int = 0
    """Bytes so far. The same bytes twice would count a coincidence in them twice: one scanner for one look."""

    def number(self, name: str, value: float) -> None:
        self.patterns |= {(name, spelling): raw for spelling, raw in float_patterns(value)}
        self.patterns[name, "decimal"] = decimal_pattern(value)

    def count(self, name: str, value: int) -> None:
        self.patterns |= {(name, spelling): raw for spelling, raw in integer_patterns(value)}
        self.patterns[name, "decimal"] = count_pattern(value)

    def row(self, name: str, values: Iterable[float]) -> None:
        self.patterns |= {(name, spelling): raw for spelling, raw in run_patterns(values)}

    def raw(self, name: str, data: bytes) -> None:
        self.patterns |= {(name, spelling): raw for spelling, raw in _encoded("raw", data)}

    def scan(self, where: str, data: bytes) -> None:
        self.scanned += len(data)
        for key, pattern in self.patterns.items():
            hits = data.count(pattern) if isinstance(pattern, bytes) else len(pattern.findall(data))
            if hits:
                self.found.setdefault(key, []).extend([where] * hits)

    def scan_folder(self, folder: Path, *, without: Path | None = None) -> int:
        """Every file under `folder`, those under `without` left out; how many there were."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and without not in path.parents]
        for path in files:
            try:
                self.scan(str(path), path.read_bytes())
            except FileNotFoundError:
                continue  # SQLite's, gone in the meantime
        return len(files)

    @property
    def leaks(self) -> dict[tuple[str, str], list[str]]:
        """What was found and is no coincidence."""

        def coincidence(key: tuple[str, str], hits: int) -> bool:
            pattern = self.patterns[key]
            if not isinstance(pattern, bytes):
                return False
            expected = self.scanned / 256 ** len(pattern)
            return bool(expected**hits / math.factorial(hits) > CHANCE)  # P(Poisson >= hits) is at most this

        return {key: where for key, where in self.found.items() if not coincidence(key, len(where))}
