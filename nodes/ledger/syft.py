"""Syft (`syft_datasets`, `syft_job` 0.1), quietly: the only module that imports it, and only when it is used.

`SyftParts` publishes data sets there, `SyftJobs` keeps requests there as jobs. What they mean for consent is said in
`syft_ledger`. Syft's job runner is never run, and a job's entry point does nothing but say so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smpc_fl.errors import DatasetInvalid
from smpc_fl.hashing import digest as hash_of
from smpc_fl.nodes.ledger.base import Request, printable
from smpc_fl.nodes.ledger.parts import Part, write_durably

_MAIN = """
raise SystemExit("The SMPC-FL node runs this request, from the bytes in request.bin; Syft's job runner must not.")
"""


def syft_installed() -> bool:
    """Whether `syft_job` and `syft_datasets` can be imported (they are not, here)."""
    return all(importlib.util.find_spec(name) is not None for name in ("syft_job", "syft_datasets"))


def _syft(module: str) -> Any:
    """A module of Syft, which has no types. Call it in `_quiet`."""
    return importlib.import_module(module)


# Standard output and warning filters are the process's: two threads that put them back crosswise would lose them.
_silence = threading.RLock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Syft talks to people on standard output and warns while it is imported; a node has nobody to read it."""
    with _silence, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _email(member: str) -> str:
    # Syft takes only names with an "@" for people. `.invalid` is nobody's domain (RFC 2606).
    return f"{member}@smpc-fl.invalid"


class SyftParts:
    """Data sets' files as Syft data sets. Anybody may read a mock; a private part is its owner's."""

    def __init__(self, box: Path, owner: str) -> None:
        self._box, self._owner = box, owner

    def put(self, name: str, private: bytes, mock: bytes, tags: Sequence[str], summary: str) -> None:
        with _quiet():
            try:
                self._manager().storage.validate_dataset_name(name)
            except ValueError:
                raise DatasetInvalid(f"Syft keeps the name {name!r} for itself: choose another") from None
        self.drop(name)
        staging = Path(tempfile.mkdtemp(prefix="staging-", dir=self._box.parent))
        try:
            write_durably(staging / "private.safetensors", private)
            write_durably(staging / "mock.safetensors", mock)
            with _quiet():
                self._manager().create(
                    name,
                    mock_path=staging / "mock.safetensors",
                    private_path=staging / "private.safetensors",
                    summary=summary or None,
                    tags=list(tags),
                    users="any",
                )
        finally:
            shutil.rmtree(staging)

    def read(self, name: str, part: Part) -> bytes:
        with _quiet():
            storage = self._manager().storage
            ref = storage.find_dataset_ref(_email(self._owner), name)
            folder: Path = storage.private_dataset_dir(ref) if part == "private" else storage.public_dataset_dir(ref)
        return (folder / f"{part}.safetensors").read_bytes()

    def drop(self, name: str) -> None:
        with _quiet():
            storage = self._manager().storage
            storage.delete_dataset(_email(self._owner), name)
            # An interrupted `create` leaves files without the metadata that Syft finds data sets by.
            ref = storage.new_dataset_ref(name, "0")
            for folder in (storage.private_dataset_dir(ref), storage.public_dataset_dir(ref)):
                shutil.rmtree(folder, ignore_errors=True)

    def _manager(self) -> Any:
        return _syft("syft_datasets.dataset_manager").SyftDatasetManager(self._box, _email(self._owner))


class SyftJobs:
    """Requests as Syft jobs: `inbox/<researcher>/v1/<kind>-<digest>/` and `review/…`. Callers hold the lock."""

    def __init__(self, box: Path, owner: str) -> None:
        self._box, self._owner = box, owner
        self._client: Any = None

    def write(self, request: Request, payload: bytes) -> bytes:
        """(Re)write the job of a request, pending; returns its fingerprint."""
        files = _job_files(request, payload)
        staging = Path(tempfile.mkdtemp(prefix="staging-", dir=self._box.parent))
        try:
            for name, data in files.items():
                write_durably(staging / name, data)
            with _quiet():
                syft_job = _syft("syft_job")
                client, ref = self._open(request)
                for folder in (client.manager.submission_dir(ref), client.manager.review_dir(ref)):
                    shutil.rmtree(folder, ignore_errors=True)
                researcher = _email(request.researcher)
                client.setup_ds_job_folder_as_do(researcher)
                sender = syft_job.JobClient(
                    syft_job.SyftJobConfig(syftbox_folder=self._box, current_user_email=researcher),
                    target_datasite_owner_email=_email(self._owner),
                )
                # Never run, so what it would install does not matter; naming it keeps Syft from looking around.
                sender.peer_install_sources[_email(self._owner)] = "syft"
                folder = sender.submit_python_job(_email(self._owner), str(staging), job_name=ref.job_name)
                client.scan_inbox()
        finally:
            shutil.rmtree(staging)
        written = {f"code/{name}": data for name, data in files.items()}
        written |= {name: (folder / name).read_bytes() for name in ("run.sh", "config.yaml")}
        return _fingerprint(written)

    def fingerprint(self, request: Request) -> bytes:
        """The fingerprint of the job's files as they are now, or of nothing when they are gone."""
        with _quiet():
            client, ref = self._open(request)
            folder: Path = client.manager.submission_dir(ref)
        return _fingerprint(_read_tree(folder))

    def state(self, request: Request) -> tuple[str, str]:
        """Syft's status and the reason noted with it; "pending" where there is none to be read."""
        with _quiet():
            client, ref = self._open(request)
            try:
                state = client.manager.read_state(ref)
            except Exception:  # missing, or half written by Syft just now: neither is consent
                return "pending", ""
        return str(state.status.value), state.review_reason or ""

    def decide(self, request: Request, approved: bool, reason: str) -> None:
        with _quiet():
            syft_job = _syft("syft_job")
            client, ref = self._open(request)
            # Syft lets nobody change a decision, so every decision begins at pending.
            client.manager.write_state(ref, syft_job.JobState(status=syft_job.JobStatus.PENDING))
            job = self._job(client, ref)
            if approved:
                job.approve(reason=reason)
            else:
                job.reject(reason=reason)

    def deposit(self, request: Request, text: str) -> None:
        """Put the receipts so far beside the job; the first one closes it in Syft."""
        with _quiet(), tempfile.TemporaryDirectory(prefix="staging-", dir=self._box.parent) as staging:
            receipt = Path(staging) / "receipt.txt"
            write_durably(receipt, text.encode())
            client, ref = self._open(request)
            job = self._job(client, ref)
            if job.status == "approved":
                job.accept_by_depositing_result(str(receipt))
            elif job.status == "done":
                receipt.replace(job.job_review_path / "outputs" / "receipt.txt")

    def changes(self) -> str:
        """A token over names, times and sizes of all files of all jobs."""
        seen = []
        for folder, _, names in os.walk(self._box / _email(self._owner) / "app_data"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(os.path.join(folder, name))
                    seen.append(f"{folder}/{name} {found.st_mtime_ns} {found.st_size} {found.st_ino}")
        return hash_of("smpc-fl/1 syft", "\n".join(sorted(seen)).encode(), size=16).hex()

    def _open(self, request: Request) -> tuple[Any, Any]:
        if self._client is None:
            syft_job = _syft("syft_job")
            self._client = syft_job.JobClient.from_config(
                syft_job.SyftJobConfig(
                    syftbox_folder=self._box, current_user_email=_email(self._owner), has_do_role=True
                )
            )
        name = f"{request.kind}-{request.digest}"
        return self._client, _syft("syft_job.job_ref").JobRef(
            _email(self._owner), _email(request.researcher), name, "1"
        )

    @staticmethod
    def _job(client: Any, ref: Any) -> Any:
        metadata, state = client.manager.read_submission(ref), client.manager.read_state(ref)
        return _syft("syft_job").JobInfo(metadata, state, client.current_user_email, client, ref)


def _job_files(request: Request, payload: bytes) -> dict[str, bytes]:
    """The files of a job: a pure function of the request, so that they can be compared at any time."""
    # Syft shows the entry point to the owner who reviews a job, so the summary stands there too, as comments.
    about = [
        f"{request.kind} request of {request.researcher}",
        f"digest {request.digest}",
        *request.summary.splitlines(),
    ]
    comments = "".join(f"# {printable(line)}\n" for line in about)
    return {
        "main.py": (comments + _MAIN).encode(),
        "request.bin": payload,
        "summary.txt": request.summary.encode(),
        "digest.txt": f"{request.digest}\n".encode(),
    }


def _read_tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its relative path; a link counts by where it points, never by what is there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = b"link to " + os.fsencode(path.readlink())
        elif not path.is_dir():
            found[name] = path.read_bytes()
    return found


def _fingerprint(files: Mapping[str, bytes]) -> bytes:
    return hash_of("smpc-fl/1 syft job", *(part for name in sorted(files) for part in (name.encode(), files[name])))
