"""Draws docs/state-machines.md from the machines' tables of transitions. Run as a script, it writes the page."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from smpc_fl.protocols import aggregator, coordinator, owner

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-machines.md"
HEAD = """# State machines

One round, as each role goes through it. This page is drawn from the tables of transitions in `protocols/owner.py`,
`protocols/aggregator.py` and `protocols/coordinator.py` (`python tests/protocols/diagrams.py`); tests hold the tables against
what the machines do. Events that are not shown leave the state as it is.
"""

Table = Mapping[Any, Enum]
"""(state, event) -> state"""
TABLES: dict[str, Table] = {
    "Data owner": owner.TRANSITIONS,
    "Aggregator": aggregator.TRANSITIONS,
    "Coordinator": coordinator.TRANSITIONS,
}


def diagram(table: Table) -> str:
    """A mermaid state diagram. What leads from one state to another by several events is one arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in table.items():
        arrows.setdefault((before.name, after.name), []).append(event.replace(":", " ·"))
    first = next(iter(table))[0].name
    left = {before for before, _ in arrows}
    last = sorted({after for _, after in arrows} - left)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {before} --> {after}: {'<br/>'.join(events)}" for (before, after), events in arrows.items()]
    lines += [f"    {state} --> [*]" for state in last]
    return "\n".join([*lines, "```"])


def page() -> str:
    return "\n".join([HEAD, *(f"## {title}\n\n{diagram(table)}\n" for title, table in TABLES.items())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
