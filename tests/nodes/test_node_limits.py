"""A real node's own limits on its members: what they may attach, how much they may say, how many runs; both sides hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hostile_world import AGGREGATOR, Hostile

from smpc_fl.nodes.home.config import AggregatorConfig, AggregatorPolicy, to_toml
from smpc_fl.nodes.home.limits_table import LimitsTable
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.protocols.messages import Refusal, StatusRequest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hostile]:
    made = Hostile(tmp_path_factory.mktemp("limited"), {AGGREGATOR: {}})
    common: dict[str, Any] = made.disk.common(AGGREGATOR)
    config = AggregatorConfig(
        **common,
        listen=made.disk.address(AGGREGATOR),
        policy=AggregatorPolicy(k_min=3),
        limits=LimitsTable(messages_per_second=60.0),
    )
    made.disk._config = lambda id_, tensors: to_toml(config)  # type: ignore[method-assign]
    try:
        yield await made.open()
    finally:
        await made.close()


async def test_who_says_what_its_role_does_not_say_is_told_so(world: Hostile) -> None:
    _, refusal = await world.ask("bob", AGGREGATOR, StatusRequest(), Refusal)
    assert refusal.code == "WrongRole"
    assert "owner nodes say nothing of that type to aggregator nodes" in refusal.text


async def test_who_says_too_much_is_read_more_slowly_and_told(world: Hostile) -> None:
    """600 messages at once, 60 a second; each refused one counts for fifty."""
    since = len(world.heard["bob"])
    party, link = world.disk.party("bob"), world.links["bob", AGGREGATOR]
    for _ in range(20):
        await link.send(party.sign(StatusRequest()))

    def told() -> bool:
        return any(isinstance(m, Refusal) and m.code == "LimitExceeded" for _, _, m in world.heard["bob"][since:])

    async with asyncio.timeout(30.0), world._changed:
        await world._changed.wait_for(told)
    log = Path(world.disk.folder / f"{AGGREGATOR}.log").read_text()
    assert "it says too much" in log
    assert "bob" in log


async def test_the_table_in_the_config_is_what_the_node_goes_by(tmp_path: Path) -> None:
    assert LimitsTable().limits() == Limits()
    table = LimitsTable(connections=99, strangers=9, stall_seconds=3.0, attachment=7, slowest_upload=5, runs=2)
    limits = table.limits()
    assert (limits.connections, limits.pending, limits.stall, limits.runs) == (99, 9, 3.0, 2)
    assert (limits.attachment, limits.slowest) == (7 << 20, 5 << 10)
