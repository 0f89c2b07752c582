"""Real processes, and what they remember of what was released: an aggregator that comes back from a backup, and a sum that
could be subtracted from an earlier one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import pytest
import torch
from sample_federation import linear_plan, owners

import smpc_fl as sf
from smpc_fl.errors import RolledBack, SubtractionRefused

pytestmark = pytest.mark.slow  # whole federations for minutes: ./scripts/test -m slow

DATA = owners(4)
RESTORED, WITNESS = "aggregator-1", "aggregator-2"


@pytest.fixture(scope="module")
def fed() -> Iterator[sf.LocalFederation]:
    with sf.LocalFederation(DATA, aggregators=2, ledger="own", round_deadline=20.0) as federation:
        yield federation


def _train(fed: sf.LocalFederation, seed: int) -> sf.Run:
    return fed.train(linear_plan(), inputs="x", targets="y", rounds=1, seed=seed).wait()


def test_the_same_sum_may_be_asked_for_again_but_not_without_an_owner(fed: sf.LocalFederation) -> None:
    """Same job, same first model, same data: with all four owners again it is the same sum; without one it would show that
    one's update. Another job goes on without it."""
    first, again = _train(fed, seed=1), _train(fed, seed=1)
    torch.testing.assert_close(first.model.state_dict(), again.model.state_dict(), atol=0, rtol=0)
    fed.kill("owner-4", restart=False)
    with pytest.raises(SubtractionRefused, match="could be subtracted"):
        _train(fed, seed=1)
    assert _train(fed, seed=2).rounds[0].included == ["owner-1", "owner-2", "owner-3"]
    fed.revive("owner-4")
    fed.wait_for_owners()
    with pytest.raises(SubtractionRefused):
        _train(fed, seed=2)  # a newcomer is as telling as one that is missing
    assert len(_train(fed, seed=1).rounds[0].included) == 4


def test_an_aggregator_from_a_backup_is_found_out_by_name(fed: sf.LocalFederation) -> None:
    home = fed.home / RESTORED / "state"
    copy = fed.home / "copy"
    fed.kill(RESTORED, restart=False)
    shutil.copytree(home, copy)
    fed.revive(RESTORED)
    _train(fed, seed=11)
    fed.kill(RESTORED, restart=False)
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    fed.revive(RESTORED)
    with pytest.raises(RolledBack, match=f"{RESTORED} says that it has voted to release .* sums"):
        _train(fed, seed=12)
    pause = threading.Event()
    while f"{WITNESS} is for an abort: {RESTORED} says" not in fed.log_path(RESTORED).read_text():
        pause.wait(0.02)  # until the one that was restored has heard who remembers
