"""What fuzzing has found, each once: input that came out as something else than a documented error."""

from __future__ import annotations

import io
import os
import re
import sqlite3
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scenes
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rig import refusal

from smpc_fl.enrolment import ask
from smpc_fl.errors import ConfigInvalid, DatasetInvalid, InternalError, ModelMismatch, Unavailable
from smpc_fl.identity import Identity
from smpc_fl.nodes.cli.job_file import read_job
from smpc_fl.nodes.home import config, invitations, spool
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.roster_file import draft_to_toml, read_draft
from smpc_fl.nodes.ledger.datasets import read_dataset
from smpc_fl.nodes.net import certificates
from smpc_fl.nodes.rounds import load_records
from smpc_fl.protocols import vectors
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.messages import RoundOffer
from smpc_fl.ring import ring
from smpc_fl.roster import Member, Roster, Rotation


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "{a=" * 2000, f"x = {'1' * 5000}"])
def test_toml_without_end(tmp_path: Path, text: str) -> None:
    """`RecursionError`, and Python's own limit for the digits of a number."""
    path = tmp_path / "file.toml"
    path.write_text(text)
    for read in (config.load_any, read_job, read_draft):
        with pytest.raises(ConfigInvalid, match=r"file\.toml"):
            read(path)


@pytest.mark.parametrize("home", ["~nosuchuser/home", "home\\u0000"])
def test_a_path_that_cannot_be(tmp_path: Path, home: str) -> None:
    """`RuntimeError` of `Path.expanduser`, and `ValueError` of the first to open it."""
    path = tmp_path / "node.toml"
    text = f'role = "researcher"\nid = "n"\nhome = "{home}"\nkey = "k"\nroster = "r"\nfederation_key = "{"a" * 64}"\n'
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match="home"):
        config.load_any(path)
    path.write_text(f'[[steps]]\ndo = "mean"\ntensor = "x"\nbound = 1.0\n[local.owners.a]\nprivate = "{home}"\n')
    if "~" not in home:
        with pytest.raises(ConfigInvalid, match="private"):
            read_job(path)


def test_a_certificate_of_another_curve_version_or_names(tmp_path: Path) -> None:
    """`UnsupportedAlgorithm`, `InvalidVersion` and `ValueError`, when fields are looked at that nobody had read before."""
    authority = certificates.make_authority("ca")
    pem, _ = certificates.make_certificate(authority, ["host.example"])
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    changes = [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x78", certificates.expiry_of),
        (b"\x82\x0chost.example", b"\x02\x0chost.example", certificates.hosts_of),
        (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x77", None),
    ]
    for true, false, read in changes:
        assert true in der
        path = tmp_path / "node.pem"
        path.write_bytes(_pem(der.replace(true, false)))
        if read is not None:
            with pytest.raises(ConfigInvalid, match=r"node\.pem"):
                read(path)
            continue
        path.rename(tmp_path / "ca.pem")
        (tmp_path / "ca.key").write_bytes(certificates.key_pem(authority.key))
        with pytest.raises(ConfigInvalid, match="not a CA"):
            certificates.open_authority(tmp_path, "ca")


@pytest.mark.parametrize(
    "changed", ["[" * 5000, "1" * 5000, '"2026-01-01T00:00:00"', '"tomorrow"', '"9999-12-31T23:59:59+99:00"']
)
def test_a_list_of_invitations_that_nobody_wrote(tmp_path: Path, changed: str) -> None:
    """`RecursionError`, `ValueError`, and `TypeError` for a time without a zone, which is held against the clock."""
    draft, now = tmp_path / "roster.toml", datetime(2026, 1, 1, tzinfo=UTC)
    token = invitations.invite(draft, "alice", "owner", "", timedelta(days=1), now=now, entropy=os.urandom)
    path = invitations.invitations_path(draft)
    path.write_text(re.sub(r"expires = .*", lambda _: f"expires = {changed}", path.read_text()))
    with pytest.raises(ConfigInvalid, match="not a list of invitations"):
        invitations.accept(draft, ask(token, Identity.generate(os.urandom)), now=now)


@pytest.mark.parametrize(
    ("line", "changed"), [("version = 3", f"version = {1 << 64}"), ("until = ", 'until = "9999-12-31T23:59:59-12:00"')]
)
def test_a_draft_whose_version_or_date_no_roster_could_have(tmp_path: Path, line: str, changed: str) -> None:
    """`OverflowError` when it is encoded, and `ValueError` when it is written out again."""
    old, new = (Identity.generate(os.urandom) for _ in range(2))
    member = Member("a", "owner", new.public.key)
    draft = draft_to_toml(Roster.of("f", 3, [member], rotations=[Rotation.make("a", old, new, old.public)]))
    path = tmp_path / "roster.toml"
    path.write_text(draft)
    assert read_draft(path).version == 3
    path.write_text("\n".join(changed if text.startswith(line) else text for text in draft.split("\n")))
    with pytest.raises(ConfigInvalid, match=r"roster\.toml"):
        read_draft(path)


def test_a_model_that_went_into_a_vectors_place_is_not_the_model() -> None:
    """`TypeError`: an owner's machine was handed a sink, as aggregators are."""
    made = scenes.rig()
    made.begin()
    to, offer = made.until(RoundOffer, "alice")
    of = ring(32)
    sink = vectors.VectorOpener(vectors.stream(bytes(32), bytes(32), of, 4), of, of.zeros(4))
    assert type(refusal(made.tell(to, offer.sender, offer.message, sink))) is ModelMismatch
    made.queue.append((to, offer))
    assert isinstance(made.finish(), Released)


def _pem(der: bytes) -> bytes:
    from base64 import encodebytes

    return b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_a_certificate_that_is_not_there_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        certificates.hosts_of(tmp_path / "none.pem")


def test_archives_that_numpy_and_zipfile_stumble_over(tmp_path: Path) -> None:
    """`LZMAError`, `RuntimeError` (encrypted), `AttributeError` (no array at all), `TokenError`, `MemoryError`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", _npy("(4, 4)") + bytes(64))
    lzma = bytearray(packed.getvalue())
    lzma[60:70] = b"\xff" * 10
    plain = _archive("x.npy", _npy("(4, 4)") + bytes(64))
    encrypted = bytearray(plain)
    for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[plain.index(header) + at] |= 1
    for data in (
        bytes(lzma),
        bytes(encrypted),
        _archive("x.npy", b"no array"),
        _archive("x.npy", _npy("(4, 4")),
        _archive("x.npy", _npy("(1152921504606846975, 1)")),
        _archive("x.npy", _npy("(" * 3000)),
    ):
        (tmp_path / "data.npz").write_bytes(data)
        with pytest.raises(DatasetInvalid, match=r"data\.npz"):
            read_dataset(tmp_path / "data.npz")


def _npy(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _archive(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_tables_that_pyarrow_stumbles_over(tmp_path: Path) -> None:
    """`KeyError` for a column that is there twice, and for one of lists when it is asked for."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    path = tmp_path / "data.parquet"
    pq.write_table(pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"]), path)
    with pytest.raises(DatasetInvalid, match="names a column twice"):
        read_dataset(path, ["a"])
    pq.write_table(pa.table({"a": [[1.0]]}), path)
    with pytest.raises(DatasetInvalid, match=r"data\.parquet"):
        read_dataset(path, ["a"])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET data = 5", "UPDATE records SET data = 'text'", "UPDATE records SET kind = 7",
        "UPDATE records SET kind = x'00'", "UPDATE bulk SET key = 1", "UPDATE bulk SET key = x'00'",
        "UPDATE bulk SET size = 1 << 50", "UPDATE bulk SET size = -1", "UPDATE bulk SET size = 'x'",
        "UPDATE bulk SET file = x'00'", "UPDATE named SET data = 1 << 40", "UPDATE records SET data = x'c1'",
    ],
)  # fmt: skip
async def test_a_journal_with_rows_that_nobody_wrote(tmp_path: Path, change: str) -> None:
    """`TypeError`, `ValueError`, and a `MemoryError` for a size that the file does not have."""
    path = tmp_path / "journal"
    with Journal.open(path) as journal:
        await journal.append_all("round/a", [("Closed", msgspec.msgpack.encode({}))], b"bulk")
        await journal.put("key", b"value")
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with pytest.raises((Unavailable, InternalError)), Journal.open(path) as journal:  # noqa: PT012
        load_records(journal, "round/a")
        journal.read_bulk("round/a")
        journal.get("key")


def test_a_spool_is_not_asked_for_more_than_its_file_has(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path)
    slot = kept.write(np.zeros(10, np.uint8).data)
    for size in (1 << 50, -1):
        with pytest.raises(Unavailable, match="does not hold"):
            kept.read(spool.Slot(slot.file, size, slot.key))
