"""Nothing runs and nothing leaves without the owners' yes: the whole way, from a researcher's session to the owners' command
lines in processes of their own, with both ledgers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from commands import smpc_fl, until, waiting_digests
from sample_federation import linear_plan, owners

import smpc_fl as sf

DATA = owners(3, rows=20)
ALL = "approval by owner-1, owner-2, owner-3"


@pytest.fixture(scope="module", params=["own", "syft"])
def fed(request: pytest.FixtureRequest) -> Iterator[sf.LocalFederation]:
    with sf.LocalFederation(DATA, aggregators=2, approve="ask", ledger=request.param) as federation:
        yield federation


def decide(fed: sf.LocalFederation, word: str, digest: str, *names: str, reason: str = "") -> None:
    """An owner looks at what waits, and finds what the researcher talks of; then each of them says its word."""
    assert digest[:16] in waiting_digests(fed.config_path(names[0]))
    for owner in names:
        said = smpc_fl("requests", word, digest[:16], "--reason", reason, "--config", fed.config_path(owner))
        assert said.startswith({"approve": "approved", "reject": "rejected"}[word])


def test_a_run_waits_for_every_owner_and_then_trains(fed: sf.LocalFederation) -> None:
    run = fed.train(linear_plan(), inputs="x", targets="y", rounds=2, seed=1)
    until(lambda: run.status == f"waiting: {ALL}", "all three are asked")
    assert "waiting" in repr(run)
    config = fed.config_path("owner-1")
    shown = smpc_fl("requests", "show", run.digest[:16], "--config", config)
    assert "Train a model on x and y by FedAvg, at most 2 rounds, with 3 owners (owner-1, owner-2, owner-3)." in shown
    assert f"--config {config}" in shown
    decide(fed, "approve", run.digest, "owner-1")
    until(lambda: run.status == "waiting: approval by owner-2, owner-3", "one yes is seen")
    decide(fed, "approve", run.digest, "owner-2", "owner-3")
    assert [r.included for r in run.wait().rounds] == [sorted(DATA)] * 2
    assert run.status == "finished"
    assert "no requests waiting (1 decided" in smpc_fl("requests", "list", "--config", config)


def test_the_approval_is_of_those_bytes_and_holds_for_them(fed: sf.LocalFederation) -> None:
    again = fed.train(linear_plan(), inputs="x", targets="y", rounds=2, seed=1)
    assert len(again.wait().rounds) == 2
    longer = fed.train(linear_plan(), inputs="x", targets="y", rounds=3, seed=1)
    until(lambda: longer.status == f"waiting: {ALL}", "one round more is another job")
    decide(fed, "reject", longer.digest, "owner-1")
    with pytest.raises(sf.JobNotApproved):
        longer.wait()


def test_one_no_too_many_ends_the_run_with_the_owners_reason(fed: sf.LocalFederation) -> None:
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    fed.on_waiting = heard.put
    run = fed.train(linear_plan(), inputs="x", targets="y", rounds=1, seed=2)
    until(lambda: run.status == f"waiting: {ALL}", "all three are asked")
    decide(fed, "reject", run.digest, "owner-2", reason="not without the board")
    for _ in range(2):  # however often it is asked
        with pytest.raises(sf.JobNotApproved, match="owner-2: the owner rejected the job: not without the board"):
            run.wait()
    assert run.status.startswith("failed: ")
    assert heard.get(timeout=10).startswith(f"job {run.digest[:16]} waits for approval by owner-")


def test_an_aggregate_waits_as_well_and_says_so(fed: sf.LocalFederation) -> None:
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    fed.on_waiting = heard.put
    found: list[Any] = []
    means = [fed[owner].tensor("x").mean(0) for owner in fed.owners]
    thread = threading.Thread(target=lambda: found.append(sf.secure_mean(means, bound=8.0)))
    thread.start()
    while ALL not in (sentence := heard.get(timeout=60)):
        pass
    decide(fed, "approve", sentence.split()[1], *DATA)
    thread.join(60)
    rows = torch.cat([tensors["x"] for tensors in DATA.values()])
    torch.testing.assert_close(found[0], rows.mean(0), atol=1e-3, rtol=0)


def test_an_approved_request_lets_one_object_out_once(fed: sf.LocalFederation) -> None:
    config = fed.config_path("owner-1")
    p, twin = (fed["owner-1"].tensor("x").mean(0) for _ in range(2))
    with pytest.raises(sf.PermissionDenied, match="ask for it"):
        p.get()
    ticket = p.request("to choose units")
    assert (ticket.owner, ticket.status) == ("owner-1", "pending")
    with pytest.raises(sf.PermissionDenied, match="has not decided"):
        p.get()
    shown = smpc_fl("requests", "show", ticket.digest, "--config", config)
    assert "researcher asks to read the value of mean(x, 0)" in shown
    assert "Reason given: to choose units" in shown
    decide(fed, "approve", ticket.digest, "owner-1")
    assert p.request("to choose units").status == "approved"
    with pytest.raises(sf.PermissionDenied, match="ask for it"):
        twin.get()  # the same computation, and another object
    torch.testing.assert_close(p.get(), DATA["owner-1"]["x"].mean(0))
    with pytest.raises(sf.PermissionDenied, match="answered once"):
        p.get()
    assert "was released to researcher" in smpc_fl("requests", "show", ticket.digest, "--config", config)


def test_a_rejected_request_lets_nothing_out(fed: sf.LocalFederation) -> None:
    p = fed["owner-2"].tensor("x").sum(0)
    ticket = p.request("curious")
    decide(fed, "reject", ticket.digest, "owner-2")
    assert p.request("curious").status == "rejected"
    with pytest.raises(sf.PermissionDenied, match=f"rejected request {ticket.digest[:16]}"):
        p.get()


def test_a_second_session_claims_what_the_first_asked_for(fed: sf.LocalFederation) -> None:
    """Both are open at once, as a notebook and a command line are."""
    p = fed["owner-3"].tensor("x").mean()
    ticket = p.request("for the second session")
    with sf.connect(fed.config_path("researcher")) as second:
        with pytest.raises(sf.PermissionDenied, match="no approved, unused request"):
            second["owner-3"].claim(ticket.digest)
        decide(fed, "approve", ticket.digest, "owner-3")
        torch.testing.assert_close(second["owner-3"].claim(ticket.digest).get(), DATA["owner-3"]["x"].mean())
        with pytest.raises(sf.PermissionDenied, match="answered once"):
            p.get()
