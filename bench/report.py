"""The tables on the terminal, and the same figures as JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.idle import Idle
from bench.measure import Measured
from bench.peers import Contest
from bench.requirements import Row
from bench.stages import Stage

MB = 1 << 20


class Report:
    """Collects figures, prints each table as soon as it is complete, and writes all of them at the end."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.console = console or Console()
        self.data: dict[str, Any] = {"run": name, "machine": machine.describe()}
        self.rows: list[Row] = []
        self.console.print(f"[bold]{name}[/] on {machine.line()}")

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{text}[/]")

    def ceilings(self, speeds: dict[str, float], disk: float) -> None:
        self.data["ceilings"] = {**speeds, "disk_seconds_4MiB": disk}
        table = Table("ceiling, one core", "GB/s", title="This machine")
        for name, speed in speeds.items():
            table.add_row(name, f"{speed:.2f}")
        table.add_row("overwrite 4 MiB and fdatasync", f"{(4 << 20) / disk / 1e9:.2f}")
        self.console.print(table)

    def stages(self, title: str, stages: Sequence[Stage]) -> None:
        self.data.setdefault("stages", {})[title] = [asdict(stage) for stage in stages]
        table = Table("stage", "ms", "GB/s", "ceiling ms", "ratio", "ceiling", title=f"Stages, one core, {title}")
        for stage in stages:
            table.add_row(
                stage.name, f"{1000 * stage.seconds:.2f}", f"{stage.speed:.2f}", f"{1000 * stage.ceiling:.2f}",
                f"{stage.ratio:.2f}", stage.made_of,
            )  # fmt: skip
        self.console.print(table)

    def measured(self, title: str, found: Sequence[Measured]) -> None:
        self.data.setdefault("measured", []).extend(result.as_json() for result in found)
        table = Table(title=f"{title}: medians of a round")
        for column in ("side", "N", "d", "m", "bits", "wall ms", "CPU ms", "of it", "upload / 4dN", "peaks MB", "n"):
            table.add_column(column, justify="left" if column in ("side", "of it", "peaks MB") else "right")
        for result in found:
            task, secure = result.task, result.kind.what == "secure"
            roles = ", ".join(f"{role} {1000 * result.cpu_of(role):.0f}" for role in result.samples[0].roles)
            peaks = ", ".join(f"{role} {peak / MB:.0f}" for role, peak in result.peaks.items())
            table.add_row(
                str(result.kind), str(task.owners), f"{task.dimension:.0e}".replace("e+0", "e"),
                str(task.aggregators) if secure else "", str(task.numbers.ring_bits) if secure else "",
                f"{1000 * result.wall:.1f}", f"{1000 * result.cpu:.1f}", roles,
                f"{result.uploaded / (4 * task.dimension * task.owners):.4f}" if result.uploaded else "",
                peaks, str(len(result.samples)),
            )  # fmt: skip
        self.console.print(table)

    def idle(self, nodes: Sequence[Idle]) -> None:
        self.data["idle"] = [asdict(node) for node in nodes]
        table = Table("node", "up in s", "resident MB", "% of a core at rest", "loaded", title="Nodes at rest")
        for node in nodes:
            table.add_row(
                node.role, f"{node.seconds:.2f}", f"{node.resident / MB:.0f}", f"{100 * node.share:.2f}",
                ", ".join(node.libraries),
            )  # fmt: skip
        self.console.print(table)

    def contest(self, contest: Contest) -> None:
        ours = contest.ours
        self.data.setdefault("peers", []).append(
            {"ours": ours.as_json(), "error": contest.error, "flower": [peer.as_json() for peer in contest.peers]}
        )
        title = f"Flower beside us, N = {ours.task.owners}, d = {ours.task.dimension:.0e}"
        table = Table("what", "wall ms", "CPU ms", "uploaded MB", "largest error", "peak MB", title=title)
        table.add_row(
            "secure, all processes and sockets", f"{1000 * ours.wall:.0f}", f"{1000 * ours.cpu:.0f}",
            f"{ours.uploaded / 1e6:.1f}", f"{contest.error:.2g}",
            ", ".join(f"{role} {peak / MB:.0f}" for role, peak in ours.peaks.items()),
        )  # fmt: skip
        for peer in contest.peers:
            table.add_row(
                f"Flower, {peer.way.name}", f"{1000 * peer.wall:.0f}", f"{1000 * peer.cpu:.0f}",
                f"{peer.uploaded / 1e6:.1f}", f"{peer.error:.2g}", f"{peer.peak / MB:.0f}",
            )  # fmt: skip
        self.console.print(table)

    def requirements(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def finish(self, folder: Path) -> Path:
        """Prints what must be shown, and writes the JSON; the file's path."""
        table = Table("what", "figure", "limit", "", "", title="What must be shown")
        colour = {"pass": "green", "MISS": "bold red", "reported": "dim"}
        for row in self.rows:
            limit = "" if row.limit is None else f"{'>=' if row.least else '<='} {row.limit:g}"
            verdict = f"[{colour[row.verdict]}]{row.verdict}[/]"
            table.add_row(row.name, f"{row.figure:.4g} {row.unit}", limit, verdict, row.note)
        self.console.print(table)
        self.data["requirements"] = [asdict(row) | {"verdict": row.verdict} for row in self.rows]
        self.data["load_after"] = machine.describe()["load"]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.data['run']}.json"
        path.write_text(json.dumps(self.data, indent=1))
        self.say(f"figures: {path}")
        return path
