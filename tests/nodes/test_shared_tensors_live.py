"""Shared tensors between real processes over real websockets, and what becomes of a run whose members are killed."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from smpc_fl.errors import BadInput, SmpcError, Unavailable
from smpc_fl.nodes.local import LocalFederation
from smpc_fl.nodes.shared_session import Shared, SharedSession, Task
from smpc_fl.protocols.computing_client import State
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Draft

DEADLINE = 40.0
X = torch.arange(-32, 32, dtype=torch.float64) / 8


def chain(length: int) -> Task:
    """A program of four rounds for each link."""
    draft = Draft()
    x = draft.input("x", (64,))
    for _ in range(length):
        x = order.relu(x - 2.0**-10)
    return Task.of(draft, [x])


def killed(federation: LocalFederation, session: SharedSession, victim: str, x: Shared) -> SmpcError:
    """What a run of a thousand rounds ends with, of which a member is killed in the midst."""

    def kill() -> None:
        while not any(going.machine.state is State.RUNNING for going in list(session._runs.values())):
            threading.Event().wait(0.001)
        federation.kill(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    with pytest.raises(SmpcError) as caught:
        session.run(chain(300), {"x": x})
    killer.join()
    assert time.monotonic() - began < DEADLINE
    return caught.value


def again(session: SharedSession) -> torch.Tensor:
    """From the plan, with new shares: as soon as all are back, and connected with one another."""
    while True:
        session.wait_connected(DEADLINE)
        try:
            draft = Draft()
            return session.evaluate(draft, [order.relu(draft.input("x", (64,)))], {"x": session.share(X)})[0]
        except Unavailable:
            continue


def test_runs_between_processes_and_their_deaths() -> None:
    with (
        LocalFederation({}, aggregators=3, provider=True) as federation,
        federation.shared_tensors(deadline=DEADLINE) as session,
    ):
        # They know one another once a run has gone well; what follows is about connections that were there.
        assert torch.equal(again(session), torch.relu(X))

        x = session.share(X)
        kept, nothing = session.run(chain(2), {"x": x})
        assert not nothing
        draft = Draft()
        doubled = session.evaluate(draft, [draft.input("kept", (64,)) * 2], {"kept": kept[0]})[0]
        assert torch.allclose(doubled, 2 * torch.relu(X - 2.0**-9), atol=2**-8)
        with pytest.raises(BadInput, match="share it first"):
            session.run(chain(1), {})

        for victim in ("aggregator-2", "provider"):
            error = killed(federation, session, victim, session.share(X))
            assert error.peer == victim
            assert victim in error.message
            assert torch.equal(again(session), torch.relu(X))
