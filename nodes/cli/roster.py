"""`smpc-fl roster`, whole: its subcommands stand in three modules."""

from __future__ import annotations

from smpc_fl.nodes.cli import enrolment, rotation  # they add themselves to the group
from smpc_fl.nodes.cli.members import roster

__all__ = ["enrolment", "roster", "rotation"]
