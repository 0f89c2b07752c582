"""An aggregator forgets an ended attempt's machine only once its journal knows the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes import rounds
from smpc_fl.nodes.aggregator import Aggregator
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.rounds import RoundShell
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.manifest import Rules
from smpc_fl.protocols.messages import AbortRequest
from smpc_fl.protocols.records import Record
from smpc_fl.protocols.releases import Releases
from smpc_fl.protocols.simulate import COORDINATOR, federation

KEY = bytes(16), 0, 0
STREAM = f"round/{bytes(16).hex()}/0/0"


class FullJournal(Journal):
    """A journal whose disk is full until there is `space`."""

    tried = asyncio.Event()
    space = False

    async def erase(self, *args: Any, **more: Any) -> None:
        type(self).tried.set()
        if not self.space:
            raise Unavailable("no space left on device")
        await super().erase(*args, **more)


async def test_an_attempt_whose_end_is_not_written_yet_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "DISK_AGAIN", 0.0)
    FullJournal.tried = asyncio.Event()
    parties = federation(["alice"], ["aggregator-0", "aggregator-1"], os.urandom)
    journal = FullJournal.open(tmp_path / "journal.db")
    releases = Releases()

    def build(records: Sequence[Record], bulk: bytearray | None) -> AggregatorRound:
        return AggregatorRound.restore(
            parties["aggregator-0"], Rules(2), KEY, records, bulk, coordinator=COORDINATOR, entropy=os.urandom,
            releases=releases,
        )  # fmt: skip

    async def nothing(_: object) -> int:
        return 0

    async def finished(_: object) -> None:
        pass

    shell = RoundShell(STREAM, journal, build, nothing, finished)
    node = Aggregator.__new__(Aggregator)
    node._rounds, node._by_manifest, node._releases = {KEY: shell}, {}, releases
    asked = AbortRequest(*KEY)
    feeding = asyncio.create_task(shell.feed(Received(COORDINATOR, asked, parties[COORDINATOR].sign(asked))))
    await FullJournal.tried.wait()
    node._retire()
    assert node._rounds == {KEY: shell}, "its abort is not written: another machine would begin the attempt anew"
    journal.space = True
    await feeding
    assert [kind for kind, _ in journal.read(STREAM)] == ["Aborted"]
    node._retire()
    assert node._rounds == {}
    node._index(shell)
    assert node._by_manifest == {}, "a forgotten attempt is not found any more"
    journal.close()
