"""What must be shown: each row with its figure, its limit, and whether it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.idle import Idle
from bench.measure import (
    BARE,
    BARE_TLS,
    PLAIN,
    PLAIN_TLS,
    SECURE,
    SECURE_TLS,
    Kind,
    Measured,
    exponent,
    ratio,
)
from bench.peers import Contest
from bench.stages import Stage

MB = 1 << 20
Pairs = Mapping[Kind, Measured]


@dataclass(frozen=True)
class Row:
    """`figure` is to be at most `limit`, or at least that if `least`; without a limit it is only reported."""

    name: str
    figure: float
    limit: float | None
    unit: str = ""
    least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "reported"
        kept = self.figure >= self.limit if self.least else self.figure <= self.limit
        return "pass" if kept else "MISS"


def uploads(grid: Sequence[Measured], packed: Measured | None) -> list[Row]:
    """Bytes on the owners' sockets over what the float32 vectors are."""
    rows = [
        Row(f"upload / 4d, {_bits(m)} bits, {_size(m)}", _upload(m), 1.01, "x")
        for m in grid
        if m.kind.what == "secure" and m.task.owners == 10 and m.task.dimension == 10**6
    ]
    if packed is not None:
        rows.append(Row(f"upload / 4d, {_bits(packed)} bits, {_size(packed)}", _upload(packed), 0.73, "x"))
    return rows


def pairs(found: Pairs) -> list[Row]:
    """Secure against plain in the three pairs, and plain against the bare yardstick."""
    rows = []
    size, plain_size = _size(found[SECURE]), _size(found[PLAIN])
    for letter, secure, plain, limits in (
        ("a", SECURE, PLAIN_TLS, (1.25, 1.5)),
        ("b", SECURE_TLS, PLAIN_TLS, (1.7, 1.7)),
        ("c", SECURE, PLAIN, (None, None)),
    ):
        wall, cpu = (ratio(found[secure], found[plain], figure) for figure in ("wall", "cpu"))
        note = _rest(found[secure], found[plain]) if letter == "c" else ""
        rows.append(Row(f"({letter}) {secure} / {plain}, wall, {size}", wall, limits[0], "x"))
        rows.append(Row(f"({letter}) {secure} / {plain}, CPU, {size}", cpu, limits[1], "x", note=note))
    for plain, bare in ((PLAIN, BARE), (PLAIN_TLS, BARE_TLS)):
        rows.append(Row(f"{plain} / {bare}, wall, {plain_size}", ratio(found[plain], found[bare], "wall"), 1.2, "x"))
        rows.append(Row(f"{plain} / {bare}, CPU, {plain_size}", ratio(found[plain], found[bare], "cpu"), 1.2, "x"))
    return rows


def crypto(stages: Sequence[Stage], memcpy: float, clips: int) -> list[Row]:
    """One core, all of a side in one go. `clips`: clipped owners that the sum told of, where there was one."""
    rows = [Row("clipped owners that the sum tells of, of 1", clips, 1, least=True)]
    for name in ("owner side", "aggregator side", "expand"):
        stage = next(stage for stage in stages if stage.name == name)
        note = f"memcpy at {memcpy:.1f} GB/s"
        rows.append(Row(f"crypto alone, {name}", 1000 * stage.seconds, 8.0, "ms", note=note))
        rows.append(Row(f"crypto alone, {name}, over its ceilings", stage.ratio, 1.5, "x", note=stage.made_of))
    return rows


def memory(many: Measured, few: Measured) -> list[Row]:
    """The aggregator's peak, and how little it depends on the number of owners."""
    peak, base = many.peaks["aggregator"], many.base["aggregator"]
    grown = (peak - base) / MB
    note = f"{base / MB:.0f} MB at rest, {peak / MB:.0f} MB at most; with {few.task.owners} owners {_peak(few):.0f} MB"
    change = abs(peak / few.peaks["aggregator"] - 1)
    size = _size(many)
    return [
        Row(f"aggregator's peak over its base, {size}", grown, 64, "MB", note=note),
        Row(f"the same at N = {few.task.owners}: difference", 100 * change, 10, "%"),
    ]


def growth(grid: Sequence[Measured]) -> list[Row]:
    """Exponents over the grid's axes, the others fixed at N = 10, d = 10^6, m = 3."""
    rows = []
    for kind in sorted({m.kind for m in grid}, key=str):
        ours = [m for m in grid if m.kind == kind]
        m_fixed = [m for m in ours if kind.what != "secure" or m.task.aggregators == 3]
        n_axis = {m.task.owners: m.wall for m in m_fixed if m.task.dimension == 10**6}
        d_axis = {m.task.dimension: m.wall for m in m_fixed if m.task.owners == 10}
        limit = 1.05 if kind.what == "secure" else None
        if len(n_axis) > 1:
            rows.append(Row(f"{kind}: exponent of wall in N, {_axis(n_axis)}", exponent(n_axis), limit))
        if len(d_axis) > 1:
            rows.append(Row(f"{kind}: exponent of wall in d, {_axis(d_axis)}", exponent(d_axis), limit))
        m_axis = {m.task.aggregators: m for m in ours if (m.task.owners, m.task.dimension) == (10, 10**6)}
        if kind.what == "secure" and len(m_axis) > 1:
            cpu = exponent({m: found.cpu for m, found in m_axis.items()})
            up = exponent({m: found.uploaded for m, found in m_axis.items()})
            rows.append(Row(f"{kind}: exponent of CPU in m, {_axis(m_axis)}", cpu, 1.0))
            rows.append(Row(f"{kind}: exponent of upload in m, {_axis(m_axis)}", up, 0.01))
    return rows


def rest(grid: Sequence[Measured], stages: Sequence[Stage]) -> list[Row]:
    """What a secure round costs more than a plain one, both on bare sockets, at N = 10, d = 10^6, m = 3: what of it does not
    depend on d (a line through 10^5 and 10^6), what is arithmetic and cryptography (the stages, as often as they are
    done), and what is left for journals, digests and the partial sums' way."""
    at = {(m.kind.what, m.task.dimension): m.cpu for m in grid if m.task.owners == 10 and m.task.aggregators == 3}
    wanted = [(what, d) for what in ("plain", "secure") for d in (10**5, 10**6)]
    if not all(place in at for place in wanted) or not stages:
        return []
    fixed = {
        what: at[what, 10**5] - (at[what, 10**6] - at[what, 10**5]) / 9 for what in ("plain", "secure")
    }  # fmt: skip
    costs = {stage.name: stage.seconds for stage in stages}
    crypto = 10 * (costs["owner side"] + costs["aggregator side"] + 2 * costs["expand"])
    crypto += 3 * (costs["seal"] + costs["open"] + costs["add"]) + costs["finish"]
    more = at["secure", 10**6] - at["plain", 10**6]
    still = fixed["secure"] - fixed["plain"]
    return [
        Row("(c) CPU that secure takes more, N = 10, d = 1e6, m = 3", 1000 * more, None, "ms"),
        Row("(c) of it whatever d is: messages, signatures, commits", 1000 * still, None, "ms"),
        Row("(c) of it arithmetic and cryptography", 1000 * crypto, None, "ms"),
        Row("(c) of it the rest: spool, digests, partial sums", 1000 * (more - still - crypto), None, "ms"),
    ]


def idle(nodes: Sequence[Idle]) -> list[Row]:
    """At rest; an owner, which holds data and computes on it, is reported apart."""
    rows = []
    for node in nodes:
        bound = node.role != "owner"
        loaded = ", ".join(node.libraries) or "no heavy library"
        rows.append(Row(f"{node.role} at rest", 100 * node.share, 1.0, "% of a core"))
        rows.append(Row(f"{node.role}: resident", node.resident / MB, 120 if bound else None, "MB", note=loaded))
        rows.append(Row(f"{node.role}: up in", node.seconds, 1.5 if bound else None, "s"))
    return rows


LIMITS = {(10, 10**6): (10.0, 6.0), (5, 10**7): (18.0, 12.0)}
"""(N, d) -> how many times less wall and CPU than SecAgg+ in Flower's engine, whether Ray is in it or not."""


def peers(contest: Contest) -> list[Row]:
    ours, task = contest.ours, contest.ours.task
    wall, cpu = LIMITS.get((task.owners, task.dimension), (None, None))
    size = _size(ours)
    rows = []
    secure = [peer for peer in contest.peers if peer.way.secure]
    for peer in secure:
        engine = peer.way.engine != "calls"
        name = f"{peer.way.name} / secure"
        rows.append(Row(f"{name}, wall, {size}", peer.wall / ours.wall, wall if engine else None, "x", True))
        rows.append(Row(f"{name}, CPU, {size}", peer.cpu / ours.cpu, cpu if engine else None, "x", True))
    least = min(peer.uploaded for peer in secure)
    error = median(peer.error for peer in secure)
    note = f"{contest.error:.2g} and {error:.2g}"
    return [
        *rows,
        Row(f"our upload / SecAgg+'s, {size}", ours.uploaded / least, 0.51, "x"),
        Row(f"our largest error / SecAgg+'s, {size}", contest.error / error, 0.1, "x", note=note),
    ]


def _upload(measured: Measured) -> float:
    return measured.uploaded / (4 * measured.task.dimension * measured.task.owners)


def _rest(secure: Measured, plain: Measured) -> str:
    """Which role costs most of what is more."""
    more = {role: secure.cpu_of(role) for role in secure.samples[0].roles}
    more["owner"] -= plain.cpu_of("owner")
    more["coordinator"] -= plain.cpu_of("server")
    return "more CPU: " + ", ".join(f"{role} {1000 * cost:.0f} ms" for role, cost in more.items())


def _size(measured: Measured) -> str:
    task = measured.task
    secure = f", m = {task.aggregators}" if measured.kind.what == "secure" else ""
    return f"N = {task.owners}, d = {task.dimension:.0e}{secure}".replace("e+0", "e")


def _bits(measured: Measured) -> int:
    return measured.task.numbers.ring_bits


def _axis(points: Mapping[int, object]) -> str:
    return f"{min(points):g} to {max(points):g}"


def _peak(measured: Measured) -> float:
    return measured.peaks["aggregator"] / MB
