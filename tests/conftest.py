"""How the suite runs: which files begin, and without anybody's stop-watch.

scripts/test hands whole files to its processes, for a file may share a federation. What takes longest begins first, so that
no process waits for another at the end. `./scripts/test --durations=40` says what takes how long; a name that is missing
here costs time and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

LONGEST = (
    "test_readme.py",
    "test_simulation_page.py",
    "test_two_machines.py",
    "test_federation.py",
    "test_simulate.py",
    "test_simulation.py",
    "test_consent.py",
    "test_dropouts.py",
    "test_bench.py",
)

# A machine with other things to do is slow now and then, which is no fault of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By name, then those that start processes, then the rest; the order within a file stays."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        return (LONGEST.index(name) if name in LONGEST else len(LONGEST), item.path.parent.name != "nodes")

    items.sort(key=place)
