"""Both ledgers, one behaviour: the own store and Syft pass the same tests."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import BadInput, DatasetInvalid, JobNotApproved, Unavailable
from smpc_fl.jobs import AggregateJob, encode_job, job_digest
from smpc_fl.nodes.ledger.base import Array, Ledger, LedgerKind, open_ledger

DIGEST = "ab" * 32
Opener = Callable[[], Ledger]


@pytest.fixture(params=["own", "syft"])
def kind(request: pytest.FixtureRequest) -> LedgerKind:
    value: LedgerKind = request.param
    return value


@pytest.fixture
def reopen(kind: LedgerKind, tmp_path: Path) -> Opener:
    return lambda: open_ledger(kind, tmp_path / "home", "alice")


@pytest.fixture
def ledger(reopen: Opener) -> Ledger:
    return reopen()


def heart(rows: int = 5) -> dict[str, Array]:
    return {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + 0.25, "y": np.arange(rows) % 2}


MOCK: dict[str, Array] = {"x": np.zeros((2, 3), np.float32), "y": np.zeros(2, np.int64)}


def test_datasets_come_back_as_they_went_in(ledger: Ledger, reopen: Opener, kind: LedgerKind) -> None:
    made = ledger.add_dataset("heart", heart(), MOCK, ["#heart", "#uci"], "four hospitals")
    again = reopen()
    assert again.kind == ledger.kind == kind
    assert again.notice == ""
    assert again.datasets() == [made]
    assert made.tags == ("#heart", "#uci")
    assert not made.rows_published
    assert {name: info.dtype for name, info in made.tensors.items()} == {"x": "float32", "y": "int64"}
    for found, given in ((again.load_private("heart"), heart()), (again.load_mock("heart"), MOCK)):
        assert found.keys() == given.keys()
        for name, array in given.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_odd_layouts_are_kept_by_value(ledger: Ledger) -> None:
    backwards = np.arange(12, dtype=">f8").reshape(3, 4)[::-1, ::2]
    ledger.add_dataset(
        "odd", {"x": backwards, "b": np.array([True, False, True])}, {"x": np.ones((1, 2)), "b": np.array([True])}
    )
    np.testing.assert_array_equal(ledger.load_private("odd")["x"], backwards)
    assert ledger.load_private("odd")["b"].dtype == np.bool_


def test_row_counts_are_published_only_when_asked_for(ledger: Ledger, reopen: Opener) -> None:
    assert ledger.add_dataset("open", heart(), MOCK, publish_rows=True).rows == 5
    ledger.add_dataset("closed", heart(), MOCK)
    assert {d.name: d.rows for d in reopen().datasets()} == {"open": 5, "closed": None}


def test_names_are_taken_once_and_free_after_removal(ledger: Ledger) -> None:
    ledger.add_dataset("heart", heart(), MOCK)
    with pytest.raises(DatasetInvalid, match="already"):
        ledger.add_dataset("heart", heart(), MOCK)
    ledger.remove_dataset("heart")
    assert ledger.datasets() == []
    for call in (ledger.load_private, ledger.load_mock, ledger.remove_dataset):
        with pytest.raises(DatasetInvalid, match="no data set 'heart'"):
            call("heart")
    ledger.add_dataset("heart", heart(7), MOCK)
    assert len(ledger.load_private("heart")["y"]) == 7


def test_removal_leaves_no_private_byte(ledger: Ledger, tmp_path: Path) -> None:
    canary = np.full((4, 3), 1234.5678, np.float32)
    ledger.add_dataset("heart", {"x": canary}, {"x": MOCK["x"]})
    ledger.remove_dataset("heart")
    needle = np.float32(1234.5678).tobytes()
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file() and needle in p.read_bytes()] == []


def test_parts_that_differ_change_nothing(ledger: Ledger) -> None:
    with pytest.raises(DatasetInvalid, match="different tensors"):
        ledger.add_dataset("heart", heart(), {"x": MOCK["x"]})
    assert ledger.datasets() == []


@pytest.mark.parametrize("part", ["private", "mock"])
def test_a_part_that_was_changed_behind_the_ledger_is_refused(ledger: Ledger, tmp_path: Path, part: str) -> None:
    ledger.add_dataset("heart", heart(), MOCK)
    load = ledger.load_private if part == "private" else ledger.load_mock
    [file] = (tmp_path / "home").rglob(f"{part}.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DatasetInvalid, match="changed on disk"):
        load("heart")
    file.unlink()
    with pytest.raises(DatasetInvalid, match="cannot be read"):
        load("heart")


def test_folders_are_closed_to_others(ledger: Ledger, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        ledger.add_dataset("heart", heart(), MOCK)
        ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "ledger").stat().st_mode) == 0o700


def test_a_request_waits_for_the_owner(ledger: Ledger, reopen: Opener) -> None:
    assert ledger.status(DIGEST) == "unknown"
    assert ledger.request(DIGEST) is None
    made = ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    assert (made.status, made.researcher, made.kind, made.summary) == ("pending", "rita", "get", "mean(x)")
    with pytest.raises(JobNotApproved, match="pending"):
        ledger.payload(DIGEST)
    assert not ledger.consume(DIGEST)
    other = reopen()
    assert other.requests() == [made]
    decided = other.decide(DIGEST, True, "fine")
    assert decided.status == "approved"
    assert ledger.request(DIGEST) == decided
    assert ledger.payload(DIGEST) == b"bytes"


def test_a_release_is_approved_once(ledger: Ledger, reopen: Opener) -> None:
    assert ledger.ask(DIGEST, "rita", "mean(x, 0)") == "pending"
    ledger.decide(DIGEST, True)
    assert ledger.ask(DIGEST, "rita", "mean(x, 0)") == "approved"
    assert ledger.consume(DIGEST)
    assert not reopen().consume(DIGEST)
    assert ledger.status(DIGEST) == "used"
    assert ledger.ask(DIGEST, "rita", "mean(x, 0)") == "used"
    with pytest.raises(JobNotApproved, match="used"):
        ledger.payload(DIGEST)
    ledger.decide(DIGEST, True, "once more")
    assert ledger.consume(DIGEST)


def test_one_of_many_consumers_wins(ledger: Ledger) -> None:
    ledger.ask(DIGEST, "rita", "mean(x)")
    ledger.decide(DIGEST, True)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ledger.consume, [DIGEST] * 8)) == 1


def job(bound: float = 1.0) -> tuple[str, bytes]:
    data = encode_job(AggregateJob(expression=b"x", reduce="mean", shape=[3], bound=bound))
    return job_digest(data).hex(), data


def test_jobs_are_approved_for_good_and_by_their_own_digest(ledger: Ledger) -> None:
    digest, data = job()
    with pytest.raises(JobNotApproved, match="do not have the digest"):
        ledger.submit(DIGEST, "aggregate", "rita", "mean of x", data)
    assert ledger.requests() == []
    ledger.submit(digest, "aggregate", "rita", "mean of x", data)
    ledger.decide(digest, True)
    assert ledger.consume(digest)
    assert ledger.consume(digest)
    assert ledger.status(digest) == "approved"
    assert ledger.payload(digest) == data


def test_an_edited_job_is_another_job(ledger: Ledger) -> None:
    digest, data = job()
    ledger.submit(digest, "aggregate", "rita", "mean of x", data)
    ledger.decide(digest, True)
    edited_digest, edited = job(bound=2.0)
    with pytest.raises(JobNotApproved, match="do not have the digest"):
        ledger.submit(digest, "aggregate", "rita", "mean of x", edited)
    assert ledger.submit(edited_digest, "aggregate", "rita", "mean of x", edited).status == "pending"
    assert ledger.payload(digest) == data


def test_a_digest_stands_for_one_request(ledger: Ledger) -> None:
    first = ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    assert ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes") == first
    ledger.decide(DIGEST, True)
    with pytest.raises(JobNotApproved, match="other bytes"):
        ledger.submit(DIGEST, "get", "rita", "mean(x)", b"other")
    with pytest.raises(JobNotApproved, match="other bytes"):
        ledger.submit(DIGEST, "move", "rita", "mean(x)", b"bytes")
    with pytest.raises(JobNotApproved, match="another researcher"):
        ledger.submit(DIGEST, "get", "mallory", "mean(x)", b"bytes")
    with pytest.raises(BadInput, match="hexadecimal"):
        ledger.submit("../../etc", "get", "rita", "mean(x)", b"bytes")
    assert ledger.payload(DIGEST) == b"bytes"
    assert len(ledger.requests()) == 1


def test_the_last_word_counts(ledger: Ledger, reopen: Opener) -> None:
    ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    for approved in (False, True, False, True, True, False):
        ledger.decide(DIGEST, approved, "because")
        found = reopen().request(DIGEST)
        assert found is not None
        assert (found.status, found.reason) == ("approved" if approved else "rejected", "because")
    with pytest.raises(JobNotApproved, match="rejected"):
        ledger.payload(DIGEST)
    assert not ledger.consume(DIGEST)


def test_decisions_and_receipts_need_a_request(ledger: Ledger) -> None:
    for approved in (True, False):
        with pytest.raises(BadInput, match="nobody asked"):
            ledger.decide(DIGEST, approved)
    with pytest.raises(BadInput, match="no request"):
        ledger.deposit_receipt(DIGEST, "done")
    assert ledger.receipts(DIGEST) == []


def test_receipts_are_kept_in_order(ledger: Ledger, reopen: Opener) -> None:
    ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    ledger.deposit_receipt(DIGEST, "before the decision")
    assert ledger.status(DIGEST) == "pending"
    ledger.decide(DIGEST, True)
    ledger.deposit_receipt(DIGEST, "released to rita")
    ledger.deposit_receipt(DIGEST, "again")
    assert reopen().receipts(DIGEST) == ["before the decision", "released to rita", "again"]
    assert ledger.status(DIGEST) == "approved"


def test_changes_are_seen_by_the_other_process(ledger: Ledger, reopen: Opener) -> None:
    other = reopen()
    seen = [ledger.changes()]

    def moved() -> bool:
        seen.append(ledger.changes())
        return seen[-1] not in seen[:-1]

    assert seen[0] == ledger.changes() == other.changes()
    other.add_dataset("heart", heart(), MOCK)
    assert moved()
    other.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    assert moved()
    other.decide(DIGEST, True)
    assert moved()
    other.remove_dataset("heart")
    assert moved()
    other.consume(DIGEST)
    assert moved()
    assert not other.consume(DIGEST)
    ledger.status(DIGEST)
    assert not moved()


_OTHER_PROCESS = """
import sys
from pathlib import Path
from smpc_fl.nodes.ledger.base import open_ledger
ledger = open_ledger(sys.argv[1], Path(sys.argv[2]), "alice")
for digest in sys.argv[3:]:
    ledger.submit(digest, "get", "rita", "mean(x)", b"bytes")
    ledger.decide(digest, True)
"""


def test_two_processes_at_once(ledger: Ledger, kind: LedgerKind, tmp_path: Path) -> None:
    mine = [f"{n:064x}" for n in range(0, 20, 2)]
    theirs = [f"{n:064x}" for n in range(1, 20, 2)]
    command = [sys.executable, "-W", "error", "-c", _OTHER_PROCESS, kind, str(tmp_path / "home"), *theirs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for digest in mine:
            ledger.submit(digest, "get", "rita", "mean(x)", b"bytes")
            ledger.decide(digest, True)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    assert {r.digest: r.status for r in ledger.requests()} == dict.fromkeys(sorted(mine + theirs), "approved")


def test_a_broken_store_is_unavailable_in_words(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "home" / "ledger" / "ledger.sqlite").write_bytes(b"not a database, but long enough to be looked at")
    with pytest.raises(Unavailable, match="cannot be used"):
        ledger.requests()
