"""The node's own ledger: one SQLite file (WAL, FULL) that binds digest -> exact bytes -> the owner's decision.

It is the enforcing ledger in every case: `syft.SyftLedger` asks Syft as well, and goes through this one. Each method
opens a connection for one transaction, so that any number of threads and processes may use the file.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

from smpc_fl.errors import BadInput, DatasetInvalid, JobNotApproved, Unavailable
from smpc_fl.jobs import job_digest
from smpc_fl.nodes.ledger.base import (
    SINGLE_USE_KINDS,
    Array,
    Dataset,
    LedgerKind,
    Request,
    Status,
    TensorInfo,
    check_digest,
    check_parts,
)
from smpc_fl.nodes.ledger.parts import OwnParts, Part, PartStore, digest_of, make_private_folder, pack, unpack

JOB_KINDS = frozenset({"train", "aggregate"})
"""Kinds whose digest is `jobs.job_digest` of their bytes, which this ledger checks. Others bring a digest of theirs."""

_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (
    name TEXT PRIMARY KEY, tags TEXT NOT NULL, summary TEXT NOT NULL, row_count INTEGER, tensors TEXT NOT NULL,
    private BLOB NOT NULL, mock BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, researcher TEXT NOT NULL,
    summary TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, uses_left INTEGER,
    payload BLOB NOT NULL, mirror BLOB) STRICT;
CREATE TABLE IF NOT EXISTS receipts (number INTEGER PRIMARY KEY, digest TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS revision (number INTEGER NOT NULL) STRICT;
INSERT INTO revision SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM revision);
"""

_REQUEST = "digest, kind, researcher, summary, created, status, reason, uses_left"


class OwnLedger:
    """A `Ledger` in `folder` (0700). `clock` gives seconds since the epoch, `parts` the place of data sets' files."""

    def __init__(
        self,
        folder: Path,
        *,
        notice: str = "",
        parts: PartStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.notice = notice
        self._path = folder / "ledger.sqlite"
        self._parts: PartStore = parts or OwnParts(folder / "datasets")
        self._clock = clock
        try:
            make_private_folder(folder)
        except OSError as error:
            raise Unavailable(f"the ledger's folder {folder} cannot be made: {error.strerror}") from None
        with self._connection() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            self._path.chmod(0o600)

    @property
    def kind(self) -> LedgerKind:
        return "own"

    # --- data sets ------------------------------------------------------------------------------------------------

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
        infos = check_parts(name, private, mock)
        rows = next(iter(private.values())).shape[0] if publish_rows else None
        private_bytes, mock_bytes = pack(private), pack(mock)
        tensors = {tensor: [list(info.shape_without_rows), info.dtype] for tensor, info in infos.items()}
        with self._write() as db:
            if db.execute("SELECT 1 FROM datasets WHERE name = ?", (name,)).fetchone():
                raise DatasetInvalid(
                    f"there is a data set {name!r} already: choose another name, or remove that one first with "
                    f"`smpc-fl datasets remove {name}`",
                )
            with _in_words(f"data set {name!r} cannot be written"):
                self._parts.put(name, private_bytes, mock_bytes, tags, summary)
            db.execute(
                "INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    json.dumps(list(tags)),
                    summary,
                    rows,
                    json.dumps(tensors),
                    digest_of(private_bytes),
                    digest_of(mock_bytes),
                ),
            )
        return Dataset(name, infos, tuple(tags), summary, rows)

    def remove_dataset(self, name: str) -> None:
        with self._write() as db:
            self._part_digest(db, name, "private")
            with _in_words(f"data set {name!r} cannot be erased"):
                self._parts.drop(name)
            db.execute("DELETE FROM datasets WHERE name = ?", (name,))

    def datasets(self) -> list[Dataset]:
        with self._connection() as db:
            rows = db.execute("SELECT name, tags, summary, row_count, tensors FROM datasets ORDER BY name").fetchall()
        return [
            Dataset(
                name,
                {tensor: TensorInfo(tuple(shape), dtype) for tensor, (shape, dtype) in json.loads(tensors).items()},
                tuple(json.loads(tags)),
                summary,
                row_count,
            )
            for name, tags, summary, row_count, tensors in rows
        ]

    def load_private(self, name: str) -> dict[str, Array]:
        return self._load(name, "private")

    def load_mock(self, name: str) -> dict[str, Array]:
        return self._load(name, "mock")

    def _load(self, name: str, part: Part) -> dict[str, Array]:
        with self._connection() as db:
            expected = self._part_digest(db, name, part)
        try:
            data = self._parts.read(name, part)
        except OSError as error:
            raise DatasetInvalid(
                f"the {part} part of data set {name!r} cannot be read ({error.strerror or 'it is gone'}): "
                f"remove the data set with `smpc-fl datasets remove {name}` and add it again",
            ) from None
        return unpack(data, expected, name, part)

    @staticmethod
    def _part_digest(db: sqlite3.Connection, name: str, part: Part) -> bytes:
        row = db.execute("SELECT private, mock FROM datasets WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise DatasetInvalid(f"there is no data set {name!r}: `smpc-fl datasets list` names those that there are")
        return cast(bytes, row[0] if part == "private" else row[1])

    # --- requests -------------------------------------------------------------------------------------------------

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Request:
        check_digest(digest)
        if kind in JOB_KINDS and job_digest(payload).hex() != digest:
            raise JobNotApproved(f"the bytes of this job do not have the digest {digest[:16]}…: submit it again")
        with self._write() as db:
            known = db.execute("SELECT kind, researcher, payload FROM requests WHERE digest = ?", (digest,)).fetchone()
            if known is None:
                db.execute(
                    f"INSERT INTO requests ({_REQUEST}, payload) VALUES (?, ?, ?, ?, ?, 'pending', '', ?, ?)",
                    (digest, kind, researcher, summary, self._clock(), _uses(kind), payload),
                )
            elif known[1] != researcher:
                raise JobNotApproved(
                    f"request {digest[:16]}… was submitted by another researcher ({known[1]}), and a decision holds "
                    "for whoever asked: change the job (its seed, say), or ask that researcher for the result",
                )
            elif known != (kind, researcher, payload):
                raise JobNotApproved(
                    f"request {digest[:16]}… was submitted before with other bytes: what was decided upon cannot be "
                    "edited, submit it under its own digest",
                )
            found = self._find(db, digest)
        assert found is not None
        return found

    def ask(self, digest: str, researcher: str, summary: str) -> Status:
        return self.submit(digest, "get", researcher, summary, summary.encode()).status

    def status(self, digest: str) -> Status:
        found = self.request(digest)
        return "unknown" if found is None else found.status

    def request(self, digest: str) -> Request | None:
        with self._connection() as db:
            return self._find(db, digest)

    def requests(self) -> list[Request]:
        with self._connection() as db:
            return [Request(*row) for row in db.execute(f"SELECT {_REQUEST} FROM requests ORDER BY number")]

    def payload(self, digest: str) -> bytes:
        with self._connection() as db:
            row = db.execute(
                "SELECT payload FROM requests WHERE digest = ? AND status = 'approved'", (digest,)
            ).fetchone()
        if row is None:
            raise JobNotApproved(f"request {digest[:16]}… is {self.status(digest)}, not approved")
        return cast(bytes, row[0])

    def stored(self, digest: str) -> bytes:
        return cast(bytes, self._column(digest, "payload"))

    def decide(self, digest: str, approved: bool, reason: str = "") -> Request:
        with self._write() as db:
            found = self._find(db, digest)
            if found is None:
                raise BadInput(f"nobody asked for {digest[:16]}…: `smpc-fl requests list` shows what there is")
            db.execute(
                "UPDATE requests SET status = ?, reason = ?, uses_left = ? WHERE digest = ?",
                ("approved" if approved else "rejected", reason, _uses(found.kind), digest),
            )
            found = self._find(db, digest)
        assert found is not None
        return found

    def consume(self, digest: str) -> bool:
        with self._write() as db:
            found = self._find(db, digest)
            if found is None or found.status != "approved":
                return False
            if found.kind in SINGLE_USE_KINDS:
                db.execute("UPDATE requests SET status = 'used', uses_left = 0 WHERE digest = ?", (digest,))
            return True

    def deposit_receipt(self, digest: str, text: str) -> None:
        with self._write() as db:
            if self._find(db, digest) is None:
                raise BadInput(f"there is no request {digest[:16]}… that a receipt could belong to")
            db.execute("INSERT INTO receipts (digest, text) VALUES (?, ?)", (digest, text))

    def receipts(self, digest: str) -> list[str]:
        with self._connection() as db:
            rows = db.execute("SELECT text FROM receipts WHERE digest = ? ORDER BY number", (digest,)).fetchall()
        return [row[0] for row in rows]

    def changes(self) -> str:
        with self._connection() as db:
            return str(db.execute("SELECT number FROM revision").fetchone()[0])

    # --- for a ledger that keeps a second copy elsewhere ------------------------------------------------------------

    def mirror(self, digest: str) -> bytes | None:
        """What `set_mirror` noted last: how the copy elsewhere must look. None before."""
        return self._column(digest, "mirror")

    def set_mirror(self, digest: str, fingerprint: bytes) -> None:
        with self._write() as db:
            db.execute("UPDATE requests SET mirror = ? WHERE digest = ?", (fingerprint, digest))

    def _column(self, digest: str, column: str) -> bytes | None:
        with self._connection() as db:
            row = db.execute(f"SELECT {column} FROM requests WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise BadInput(f"nobody asked for {digest[:16]}…: `smpc-fl requests list` shows what there is")
        return cast("bytes | None", row[0])

    # --- transactions -----------------------------------------------------------------------------------------------

    @staticmethod
    def _find(db: sqlite3.Connection, digest: str) -> Request | None:
        row = db.execute(f"SELECT {_REQUEST} FROM requests WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else Request(*row)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.Error as error:
            raise Unavailable(
                f"the ledger {self._path} cannot be used ({error}): look at the disk and at who may write there"
            ) from None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other writer can come between; it moves `changes()`."""
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            try:
                yield db
                if db.total_changes != before:
                    db.execute("UPDATE revision SET number = number + 1")
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _uses(kind: str) -> int | None:
    return 1 if kind in SINGLE_USE_KINDS else None


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror or error}") from None
