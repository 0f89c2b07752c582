"""Shared tensors between real processes over real websockets, and what becomes of a run whose members are killed."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import torch

from smpc_fl.errors import BadInput, SmpcError, Unavailable
from smpc_fl.nodes.local import LocalFederation
from smpc_fl.nodes.shared_session import SharedSession
from smpc_fl.protocols.computing_client import State
from smpc_fl.shared_tensors.tensor import Desk, SharedTensor

DEADLINE = 40.0
X = torch.arange(-32, 32, dtype=torch.float64) / 8


def chain(x: SharedTensor, length: int) -> SharedTensor:
    """Four rounds for each link; nothing has run yet."""
    for _ in range(length):
        x = (x - 2.0**-10).relu()
    return x


def killed(federation: LocalFederation, session: SharedSession, victim: str) -> SmpcError:
    """What a run of six hundred rounds ends with, of which a member is killed in the midst."""
    x = Desk(session).share(X)
    long = chain(x, 150)

    def kill() -> None:
        while not any(going.machine.state is State.RUNNING for going in list(session._runs.values())):
            threading.Event().wait(0.001)
        federation.kill(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    with pytest.raises(SmpcError) as caught:
        long.compute()
    killer.join()
    assert time.monotonic() - began < DEADLINE
    return caught.value


def again(session: SharedSession) -> torch.Tensor:
    """From the plan, with new shares: as soon as all are back, and connected with one another."""
    while True:
        session.wait_connected(DEADLINE)
        with contextlib.suppress(Unavailable):
            x = Desk(session).share(X)
            opened: torch.Tensor = x.relu().get()
            return opened


@pytest.mark.parametrize("victim", ["provider", pytest.param("aggregator-2", marks=pytest.mark.slow)])
def test_runs_between_processes_and_their_deaths(victim: str) -> None:
    with (
        LocalFederation({}, aggregators=2, provider=True) as federation,
        federation.shared_tensors(deadline=DEADLINE) as session,
    ):
        # They know one another once a run has gone well; what follows is about connections that were there.
        assert torch.equal(again(session), torch.relu(X))

        x = Desk(session).share(X)
        kept = chain(x, 2).compute()
        assert torch.allclose((kept * 2).get(), 2 * torch.relu(X - 2.0**-9), atol=2**-8)
        name = session.store(torch.arange(3))
        session.forget(name)
        with pytest.raises(BadInput, match="forgotten"):
            session.open(name)

        error = killed(federation, session, victim)
        assert error.peer == victim
        assert victim in error.message
        assert torch.equal(again(session), torch.relu(X))
