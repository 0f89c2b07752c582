"""One owner of five is killed before, during and after its upload: the round closes with the right set, exactly.

Processes are held with SIGSTOP at the moment that matters, and watched through their logs and metrics."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sample_federation import owners, plain_fedavg

import smpc_fl as sf
from smpc_fl.jobs import TrainJob
from smpc_fl.nodes.home.config import AggregatorConfig, load
from smpc_fl.nodes.training_job import run_seed

VICTIM, SLOW = "owner-5", "owner-4"
DATA = owners(5, rows=10)


@pytest.fixture(scope="module")
def fed() -> Iterator[sf.LocalFederation]:
    with sf.LocalFederation(DATA, aggregators=3, ledger="own", round_deadline=12.0) as federation:
        yield federation


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        pause.wait(0.02)


def _logged(fed: sf.LocalFederation, member: str, event: str) -> int:
    lines = fed.log_path(member).read_text().splitlines()
    return sum(line.startswith("{") and json.loads(line)["event"] == event for line in lines)


def _reports(fed: sf.LocalFederation, aggregator: str) -> float:
    """Messages of owners that an aggregator has received."""
    config = load(fed.config_path(aggregator), AggregatorConfig)
    with urllib.request.urlopen(f"http://{config.listen}/metrics") as page:
        for line in page.read().decode().splitlines():
            if line.startswith("smpc_fl_messages_received_total") and 'peer_role="owner"' in line:
                return float(line.split()[-1])
    return 0.0


def _large_plan() -> sf.Plan:
    """A million parameters: an upload that does not fit into the sockets' buffers."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(10, 1000), torch.nn.Linear(1000, 996), torch.nn.Linear(996, 2))
    return sf.Plan.from_module(net, example=(torch.zeros(4, 10), torch.zeros(4).long()))


def _check(run: sf.Run, plan: sf.Plan, seed: int, included: list[str]) -> None:
    (round_,) = run.rounds
    assert round_.included == included
    assert round_.attempts == 1  # no recovery round
    job = TrainJob(plan=plan.to_bytes(), inputs="x", targets="y", rounds=1, seed=run_seed(seed))
    (plain,) = plain_fedavg(plan, DATA, job, 1, [included])
    np.testing.assert_allclose(round_.model, plain.numpy(), atol=1e-5, rtol=0)


def _train(fed: sf.LocalFederation, plan: sf.Plan, seed: int) -> sf.Run:
    for member in fed.owners:
        if member not in fed.processes:
            fed.revive(member)
    fed.wait_for_owners()
    return fed.train(plan, inputs="x", targets="y", rounds=1, seed=seed)


def test_killed_before_its_upload(fed: sf.LocalFederation) -> None:
    plan = _large_plan()
    run = _train(fed, plan, seed=1)
    _until(lambda: _logged(fed, VICTIM, "computing") > 0)
    fed.kill(VICTIM, restart=False)
    run.wait()
    _check(run, plan, 1, [owner for owner in fed.owners if owner != VICTIM])


def test_killed_during_its_upload(fed: sf.LocalFederation) -> None:
    """Its carrier is held, so that the seeds arrive everywhere and the vector is cut off in the middle."""
    carrier = "aggregator-2"  # rank 4, round 0, three aggregators
    plan = _large_plan()
    begun, before = _logged(fed, VICTIM, "computing"), _logged(fed, VICTIM, "computed")
    received = {a: _reports(fed, a) for a in fed.aggregators}
    run = _train(fed, plan, seed=2)
    _until(lambda: _logged(fed, VICTIM, "computing") > begun)
    os.kill(fed.processes[carrier], signal.SIGSTOP)
    try:
        _until(lambda: _logged(fed, VICTIM, "computed") > before)
        # Seeds have gone out; the victim's vector is on its way to a carrier that takes nothing.
        _until(lambda: all(_reports(fed, a) >= received[a] + 3 for a in fed.aggregators if a != carrier))
        fed.kill(VICTIM, restart=False)
    finally:
        os.kill(fed.processes[carrier], signal.SIGCONT)
    run.wait()
    _check(run, plan, 2, [owner for owner in fed.owners if owner != VICTIM])


def test_killed_after_its_upload(fed: sf.LocalFederation) -> None:
    """Another owner is held, so that the round is still open when the victim, complete everywhere, dies: it counts."""
    plan = _large_plan()
    begun, before = _logged(fed, SLOW, "computing"), _logged(fed, VICTIM, "reported")
    run = _train(fed, plan, seed=3)
    _until(lambda: _logged(fed, SLOW, "computing") > begun)
    os.kill(fed.processes[SLOW], signal.SIGSTOP)
    try:
        _until(lambda: _logged(fed, VICTIM, "reported") > before)
        fed.kill(VICTIM, restart=False)
    finally:
        os.kill(fed.processes[SLOW], signal.SIGCONT)
    run.wait()
    _check(run, plan, 3, fed.owners)
