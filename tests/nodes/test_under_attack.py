"""Real aggregators and a real coordinator while somebody does to them what anybody can who reaches them, and what a
member can: rounds go on, exactly, and memory stays. `scripts/hostile` takes the time of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hostile_world import AGGREGATOR, Hostile

from bench.attacks import STRANGERS, Member, resident, under
from bench.secure import SecureSide, start_secure
from bench.task import Task
from smpc_fl.nodes.home.config import AggregatorConfig, load
from smpc_fl.protocols.messages import Prekey, PrekeyRequest

pytestmark = pytest.mark.slow  # whole federations for minutes: ./scripts/test -m slow

MORE = 64 << 20
"""Bytes that an attack may cost a node, at most."""


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSide]:
    made = start_secure(Task(3, 20_000, 2), tmp_path_factory.mktemp("attacked"), None)
    try:
        made.rounds(1)
        yield made
    finally:
        made.stop()


def listening_at(side: SecureSide) -> tuple[str, int]:
    host, _, port = load(side.folder / "aggregator-1" / "node.toml", AggregatorConfig).listen.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("name", STRANGERS)
async def test_strangers_hold_up_no_round_and_cost_no_memory(side: SecureSide, name: str) -> None:
    """Each round is held against the exact sum by the coordinator of the bench."""
    address, pid = listening_at(side), side.roles["aggregator"][0]
    before = resident(pid)
    async with under(STRANGERS[name](address)) as attacking:
        await asyncio.to_thread(side.rounds, 1)
        peak = resident(pid)
        assert not any(task.done() for task in attacking)
    assert peak - before < MORE


# --- a member ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hostile]:
    made = Hostile(tmp_path_factory.mktemp("hostile"), {AGGREGATOR: {}})
    try:
        yield await made.open()
    finally:
        await made.close()


MEMBER = ("nonsense", "huge", "unfinished", "reconnects", "attached")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", MEMBER)
async def test_a_member_gone_bad_holds_up_no_other(world: Hostile, name: str) -> None:
    member = Member(world.member("carol"), AGGREGATOR)
    assert world.disk._children is not None
    (child,) = world.disk._children.by_id.values()
    host, _, port = world.disk.address(AGGREGATOR).rpartition(":")
    before = peak = resident(child.pid)
    async with under(*(member.attacks[f"member: {name}"]((host, int(port))) for _ in range(2))) as attacking:
        for _ in range(5):
            _, prekey = await world.ask("coordinator", AGGREGATOR, PrekeyRequest(run := os.urandom(16), 0, 0), Prekey)
            assert prekey.run == run
            peak = max(peak, resident(child.pid))
        assert not any(task.done() for task in attacking)
    assert peak - before < MORE
    if name in ("huge", "nonsense"):
        log = Path(world.disk.folder / f"{AGGREGATOR}.log").read_text()
        assert ("is over the limit of" if name == "huge" else "BadSignature") in log
