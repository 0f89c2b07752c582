"""Syft beside the own store: both must say yes, an edited job is refused, and nothing of Syft reaches the terminal."""

from __future__ import annotations

import ast
import importlib
import stat
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smpc_fl.errors import DatasetInvalid, JobNotApproved, Unavailable
from smpc_fl.nodes.ledger.syft_ledger import EDITED, SyftLedger

DIGEST = "ab" * 32
OWNER, RESEARCHER = "alice@smpc-fl.invalid", "rita@smpc-fl.invalid"
X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


@pytest.fixture
def ledger(tmp_path: Path) -> SyftLedger:
    return SyftLedger(tmp_path / "ledger", "alice")


@pytest.fixture
def asked(ledger: SyftLedger) -> SyftLedger:
    ledger.submit(DIGEST, "get", "rita", "mean(x)\n\rimport os\x1b[2J", b"the very bytes")
    return ledger


def syft_client(tmp_path: Path) -> Any:
    """Syft's own client, as the owner would open it beside the node."""
    syft_job = importlib.import_module("syft_job")
    config = syft_job.SyftJobConfig(
        syftbox_folder=tmp_path / "ledger" / "syft", current_user_email=OWNER, has_do_role=True
    )
    return syft_job.JobClient.from_config(config)


def syft_job_of(tmp_path: Path) -> Any:
    [job] = syft_client(tmp_path).jobs
    return job


def test_a_dataset_is_published_in_syft_with_both_parts(ledger: SyftLedger, tmp_path: Path) -> None:
    ledger.add_dataset("heart", X, X, ["#heart"], "four hospitals")
    manager = importlib.import_module("syft_datasets.dataset_manager").SyftDatasetManager(
        tmp_path / "ledger" / "syft", OWNER
    )
    found = manager.get("heart")
    assert (found.name, found.summary, found.tags) == ("heart", "four hospitals", ["#heart"])
    assert [f.name for f in found.private_dir.glob("*.safetensors")] == ["private.safetensors"]
    assert [f.name for f in found.mock_dir.glob("*.safetensors")] == ["mock.safetensors"]
    permissions = importlib.import_module("syft_permissions")
    service = permissions.ACLService(owner=OWNER)
    service.load_permissions_from_filesystem(tmp_path / "ledger" / "syft" / OWNER)
    may_read = {
        part: service.can_access(
            permissions.ACLRequest(
                path=str(file.relative_to(tmp_path / "ledger" / "syft" / OWNER)),
                level=permissions.AccessLevel.READ,
                user=permissions.User(id=RESEARCHER),
            )
        )
        for part, file in (
            ("mock", found.mock_dir / "mock.safetensors"),
            ("private", found.private_dir / "private.safetensors"),
        )
    }
    assert may_read == {"mock": True, "private": False}
    assert list((tmp_path / "ledger").glob("staging-*")) == []


def test_syft_keeps_some_names_for_itself(ledger: SyftLedger) -> None:
    ledger.add_dataset("heart", X, X)
    with pytest.raises(DatasetInvalid, match="keeps the name 'v1'"):
        ledger.add_dataset("v1", X, X)
    assert [d.name for d in ledger.datasets()] == ["heart"]


def test_what_an_interrupted_publication_left_is_replaced(ledger: SyftLedger, tmp_path: Path) -> None:
    for part in ("public", "private"):
        left = tmp_path / "ledger" / "syft" / OWNER / part / "syft_datasets" / "heart"
        left.mkdir(parents=True)
        (left / "half.safetensors").write_bytes(b"half")
    ledger.add_dataset("heart", X, X)
    np.testing.assert_array_equal(ledger.load_private("heart")["x"], X["x"])


def test_a_request_is_a_job_that_says_what_it_is(asked: SyftLedger, tmp_path: Path) -> None:
    job = syft_job_of(tmp_path)
    assert (job.name, job.submitted_by, job.status) == (f"get-{DIGEST}", RESEARCHER, "pending")
    assert (job.code_dir / "request.bin").read_bytes() == b"the very bytes"
    assert "mean(x)" in job.code
    # Whatever a researcher writes, the entry point is comments and one statement that ends it.
    assert [type(node) for node in ast.parse(job.code).body] == [ast.Raise]
    assert "\x1b" not in job.code


def test_approval_in_syft_counts_once_seen(asked: SyftLedger, tmp_path: Path) -> None:
    before = asked.changes()
    syft_job_of(tmp_path).approve(reason="looks good")
    assert asked.changes() != before
    found = asked.request(DIGEST)
    assert found is not None
    assert (found.status, found.reason) == ("approved", "looks good")
    assert asked.payload(DIGEST) == b"the very bytes"
    assert asked.consume(DIGEST)


def test_rejection_in_syft_counts_once_seen(asked: SyftLedger, tmp_path: Path) -> None:
    syft_job_of(tmp_path).reject()
    found = asked.request(DIGEST)
    assert found is not None
    assert (found.status, found.reason) == ("rejected", "rejected in Syft")
    assert not asked.consume(DIGEST)


def test_decisions_here_are_seen_in_syft(asked: SyftLedger, tmp_path: Path) -> None:
    asked.decide(DIGEST, True, "fine")
    job = syft_job_of(tmp_path)
    assert (job.status, job.review_reason) == ("approved", f"fine [digest {DIGEST}]")
    asked.decide(DIGEST, False, "on second thoughts")
    job = syft_job_of(tmp_path)
    assert (job.status, job.review_reason) == ("rejected", "on second thoughts")


@pytest.mark.parametrize("when", ["before approval", "after approval"])
@pytest.mark.parametrize(
    "file", ["code/request.bin", "code/summary.txt", "code/main.py", "run.sh", "config.yaml", "code/new"]
)
def test_an_edited_job_is_refused(asked: SyftLedger, tmp_path: Path, file: str, when: str) -> None:
    if when == "after approval":
        asked.decide(DIGEST, True)
        assert asked.status(DIGEST) == "approved"
    edited = syft_job_of(tmp_path).job_submission_path / file
    original = edited.read_bytes() if edited.exists() else None
    edited.write_bytes((original or b"") + b"\n")
    if when == "before approval":
        syft_job_of(tmp_path).approve()
    assert syft_job_of(tmp_path).status == "approved", "Syft itself does not notice"
    assert not asked.consume(DIGEST)
    with pytest.raises(JobNotApproved, match="rejected"):
        asked.payload(DIGEST)
    # Putting the file back does not bring the approval back: it may have been given for other bytes.
    if original is None:
        edited.unlink()
    else:
        edited.write_bytes(original)
    found = asked.request(DIGEST)
    assert found is not None
    assert (found.status, found.reason) == ("rejected", EDITED)


def test_a_link_in_place_of_the_bytes_is_an_edit(asked: SyftLedger, tmp_path: Path) -> None:
    asked.decide(DIGEST, True)
    file = syft_job_of(tmp_path).code_dir / "request.bin"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(elsewhere)
    assert asked.status(DIGEST) == "rejected"


def test_a_removed_job_is_refused_and_written_anew_by_an_approval(asked: SyftLedger, tmp_path: Path) -> None:
    asked.decide(DIGEST, True)
    job = syft_job_of(tmp_path).job_submission_path
    for file in sorted(job.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    job.rmdir()
    assert asked.status(DIGEST) == "rejected"
    asked.decide(DIGEST, False, "still no")
    asked.deposit_receipt(DIGEST, "noted here only")
    asked.decide(DIGEST, True, "yes after all")
    assert asked.status(DIGEST) == "approved"
    assert (syft_job_of(tmp_path).code_dir / "request.bin").read_bytes() == b"the very bytes"


def test_approved_here_and_pending_in_syft_is_not_approved(asked: SyftLedger, tmp_path: Path) -> None:
    asked.decide(DIGEST, True)
    client, job = syft_client(tmp_path), syft_job_of(tmp_path)
    (job.job_review_path / "state.yaml").write_text("")  # as when Syft is interrupted while it writes
    assert asked.status(DIGEST) == "pending"
    assert [request.status for request in asked.requests()] == ["pending"]
    with pytest.raises(JobNotApproved, match="pending"):
        asked.payload(DIGEST)
    assert not asked.consume(DIGEST)
    (job.job_review_path / "state.yaml").unlink()
    client.scan_inbox()
    assert asked.status(DIGEST) == "pending"
    asked.decide(DIGEST, True)
    assert asked.consume(DIGEST)


def test_an_interrupted_submission_is_completed(
    ledger: SyftLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(ledger._jobs), "write", fails)
        with pytest.raises(Unavailable, match="No space left"):
            ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    assert ledger.status(DIGEST) == "pending"
    assert list(syft_client(tmp_path).jobs) == []
    ledger.submit(DIGEST, "get", "rita", "mean(x)", b"bytes")
    assert syft_job_of(tmp_path).status == "pending"


def test_receipts_are_deposited_beside_the_job(asked: SyftLedger, tmp_path: Path) -> None:
    asked.decide(DIGEST, True)
    asked.deposit_receipt(DIGEST, "released to rita")
    asked.deposit_receipt(DIGEST, "again")
    job = syft_job_of(tmp_path)
    assert job.status == "done"
    assert [path.read_text() for path in job.output_paths] == ["released to rita\nagain\n"]
    assert asked.status(DIGEST) == "approved"


def test_a_result_deposited_in_syft_is_no_consent(asked: SyftLedger, tmp_path: Path) -> None:
    answer = tmp_path / "answer.txt"
    answer.write_text("42")
    syft_job_of(tmp_path).accept_by_depositing_result(str(answer))
    assert asked.status(DIGEST) == "pending"


def test_nothing_is_said_and_nothing_is_open(
    asked: SyftLedger, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked.add_dataset("heart", X, X)
    asked.decide(DIGEST, True)
    asked.deposit_receipt(DIGEST, "released to rita")
    asked.requests()
    asked.remove_dataset("heart")
    assert capfd.readouterr() == ("", "")
    assert stat.S_IMODE((tmp_path / "ledger" / "syft").stat().st_mode) == 0o700


def test_threads_leave_standard_output_and_warnings_alone(asked: SyftLedger) -> None:
    asked.add_dataset("heart", X, X)
    before = (sys.stdout, list(warnings.filters))
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda n: asked.load_mock("heart") if n % 2 else asked.status(DIGEST), range(200)):
            pass
    assert (sys.stdout, list(warnings.filters)) == before
