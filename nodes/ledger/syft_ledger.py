"""The owner's registry and consent ledger in Syft.

Data sets are published there with a mock and a private part; each request becomes a Syft job whose files hold the
request's bytes; the owner approves or rejects it with Syft's own client or with `smpc-fl requests`; receipts are
deposited there. Syft keeps no digest of what was approved, so `OwnLedger` keeps it, and **both must say yes**:

    own says    Syft says    this ledger says
    pending     approved     approved, if the job's files still are what was submitted (and noted as the owner's word)
    pending     rejected     rejected (and noted)
    approved    approved     approved, if the job's files still are what was submitted
    approved    rejected     rejected (and noted)
    approved    pending      pending
    rejected    anything     rejected, until the owner says otherwise with `smpc-fl requests approve`

A job whose files were edited or removed is rejected for good; approving it with `smpc-fl requests approve`, which goes
by the node's own bytes, writes it anew. A lock file keeps the node and the command line out of each other's way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from smpc_fl.errors import BadInput, JobNotApproved, Unavailable
from smpc_fl.nodes.ledger.base import Array, Dataset, LedgerKind, Request, Status
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.ledger.parts import make_private_folder
from smpc_fl.nodes.ledger.syft import SyftJobs, SyftParts

EDITED = "its files in Syft were edited or removed after it was submitted"


class SyftLedger:
    """A `Ledger` in `folder` (0700) of the data owner `owner`; see the table above."""

    def __init__(self, folder: Path, owner: str, *, clock: Callable[[], float] = time.time) -> None:
        self.notice = ""
        self._folder = folder
        box = folder / "syft"
        self._own = OwnLedger(folder, parts=SyftParts(box, owner), clock=clock)
        make_private_folder(box)
        self._jobs = SyftJobs(box, owner)

    @staticmethod
    def refuse_if_kept(folder: Path) -> None:
        """Raise `Unavailable` when `folder` holds a Syft ledger: without Syft its decisions would be passed over."""
        if (folder / "syft").exists():
            raise Unavailable(
                f'{folder} holds a ledger kept with Syft, which is not installed: install "smpc-fl[syft]"; or, to '
                'give up what was published and decided there, remove the folder and write ledger = "own"',
            )

    @property
    def kind(self) -> LedgerKind:
        return "syft"

    def add_dataset(
        self,
        name: str,
        private: Mapping[str, Array],
        mock: Mapping[str, Array],
        tags: Sequence[str] = (),
        summary: str = "",
        *,
        publish_rows: bool = False,
    ) -> Dataset:
        with self._locked():
            return self._own.add_dataset(name, private, mock, tags, summary, publish_rows=publish_rows)

    def remove_dataset(self, name: str) -> None:
        with self._locked():
            self._own.remove_dataset(name)

    def datasets(self) -> list[Dataset]:
        return self._own.datasets()

    def load_private(self, name: str) -> dict[str, Array]:
        return self._own.load_private(name)

    def load_mock(self, name: str) -> dict[str, Array]:
        return self._own.load_mock(name)

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Request:
        request = self._own.submit(digest, kind, researcher, summary, payload)
        with self._locked():
            if self._own.mirror(digest) is None:
                self._write(request)
            return self._settle(digest) or request

    def ask(self, digest: str, researcher: str, summary: str) -> Status:
        return self.submit(digest, "get", researcher, summary, summary.encode()).status

    def status(self, digest: str) -> Status:
        request = self.request(digest)
        return "unknown" if request is None else request.status

    def request(self, digest: str) -> Request | None:
        with self._locked():
            return self._settle(digest)

    def requests(self) -> list[Request]:
        with self._locked():
            return [self._settle(request.digest) or request for request in self._own.requests()]

    def payload(self, digest: str) -> bytes:
        status = self.status(digest)
        if status != "approved":
            raise JobNotApproved(f"request {digest[:16]}… is {status}, not approved")
        return self._own.payload(digest)

    def stored(self, digest: str) -> bytes:
        return self._own.stored(digest)

    def decide(self, digest: str, approved: bool, reason: str = "") -> Request:
        with self._locked():
            if not approved:
                # The enforcing ledger first: a crash in between leaves a refusal.
                request = self._own.decide(digest, False, reason)
                if self._intact(request):
                    self._jobs.decide(request, False, reason)
                return request
            known = self._own.request(digest)
            if known is None:
                raise BadInput(f"nobody asked for {digest[:16]}…: `smpc-fl requests list` shows what there is")
            if not self._intact(known):
                self._write(known)
            self._jobs.decide(known, True, f"{reason} [digest {digest}]".lstrip())
            return self._own.decide(digest, True, reason)

    def consume(self, digest: str) -> bool:
        return self.status(digest) == "approved" and self._own.consume(digest)

    def deposit_receipt(self, digest: str, text: str) -> None:
        self._own.deposit_receipt(digest, text)
        with self._locked():
            request = self._own.request(digest)
            if request is not None and self._intact(request):
                self._jobs.deposit(request, "\n".join(self._own.receipts(digest)) + "\n")

    def receipts(self, digest: str) -> list[str]:
        return self._own.receipts(digest)

    def changes(self) -> str:
        return f"{self._own.changes()}-{self._jobs.changes()}"

    # --- under the lock ---------------------------------------------------------------------------------------------

    def _settle(self, digest: str) -> Request | None:
        """The request as the table above has it; what Syft newly says is noted in the own ledger."""
        request = self._own.request(digest)
        if request is None or request.status not in ("pending", "approved"):
            return request
        if self._own.mirror(digest) is None:
            return request  # never approved: an approval writes the job first
        if not self._intact(request):
            return self._own.decide(digest, False, EDITED)
        said, reason = self._jobs.state(request)
        if said == "rejected":
            return self._own.decide(digest, False, reason or "rejected in Syft")
        if said == "approved" and request.status == "pending":
            return self._own.decide(digest, True, reason or "approved in Syft")
        if said in ("pending", "received") and request.status == "approved":
            return dataclasses.replace(request, status="pending")
        return request

    def _intact(self, request: Request) -> bool:
        noted = self._own.mirror(request.digest)
        return noted is not None and self._jobs.fingerprint(request) == noted

    def _write(self, request: Request) -> None:
        self._own.set_mirror(request.digest, self._jobs.write(request, self._own.stored(request.digest)))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process and one thread at a time. Not to be nested: each open file locks for itself."""
        try:
            with open(self._folder / "syft.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Unavailable(
                f"the Syft ledger in {self._folder} cannot be used ({error.strerror or error}): look at the disk"
            ) from None
