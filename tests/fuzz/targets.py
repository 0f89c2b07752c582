"""All targets, by name."""

from __future__ import annotations

import compute_targets
import dataset_targets
import encrypted_targets
import file_targets
import machine_targets
import member_targets
import program_targets
import state_targets
import vector_targets
import wire_targets
from engine import Target

MODULES = (
    wire_targets, vector_targets, compute_targets, file_targets, dataset_targets, state_targets, member_targets,
    machine_targets, encrypted_targets, program_targets,
)  # fmt: skip


def by_name() -> dict[str, Target]:
    found = [target for module in MODULES for target in module.targets()]
    assert len({target.name for target in found}) == len(found)
    return {target.name: target for target in found}


def plan(cases: int, only: str = "") -> dict[str, int]:
    """How many of so many cases each target gets, at least one; those whose name begins with `only`."""
    chosen = {name: target for name, target in by_name().items() if name.startswith(only)}
    total = sum(target.share for target in chosen.values())
    return {name: max(1, round(cases * target.share / total)) for name, target in chosen.items()}
