"""The owner's registry and consent ledger: which data sets a node holds, who asked for what, what the owner said.

A *data set* has a private part (float or integer arrays that stay at home) and a mock part (invented, public). A
*request* is the exact bytes that a researcher asks to have run or released, under their digest. The owner decides by
digest; a node runs the very bytes that were decided upon, which it reads back with `payload`.

Two processes use one ledger at once: the running node and the owner's command line. Every method is one transaction,
and `changes()` is a cheap token that the node polls.

    unknown ──submit──> pending ──decide──> approved ──consume──> used       ("get" only: one release for one approval)
                           │                  │  ^                  │
                           └────decide────> rejected <──── decide ──┘        (the owner may change a decision any time)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

from smpc_fl.errors import BadInput, DatasetInvalid
from smpc_fl.nodes.home.files import private_folder

Array = npt.NDArray[Any]
LedgerKind = Literal["syft", "own"]
Status = Literal["unknown", "pending", "approved", "rejected", "used"]

SINGLE_USE_KINDS = frozenset({"get"})
"""Kinds of request whose approval is spent by one release; jobs ("train", "aggregate") carry their own caps."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{8,128}")


@dataclass(frozen=True)
class TensorInfo:
    """What may be told of a tensor: its shape behind the first (row) dimension, and NumPy's name of its dtype."""

    shape_without_rows: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Dataset:
    """Public metadata of a data set. `rows` is the private row count only where the owner publishes it, else None."""

    name: str
    tensors: dict[str, TensorInfo]
    tags: tuple[str, ...] = ()
    summary: str = ""
    rows: int | None = None

    @property
    def rows_published(self) -> bool:
        return self.rows is not None


@dataclass(frozen=True)
class Request:
    """One thing that a researcher asked for. `created` in seconds since the epoch; `uses_left` None: no limit."""

    digest: str
    kind: str
    researcher: str
    summary: str
    created: float
    status: Status
    reason: str = ""
    uses_left: int | None = None


class Ledger(Protocol):
    """What the owner node and the command line need; `own.OwnLedger` and `syft_ledger.SyftLedger` are two of it."""

    @property
    def kind(self) -> LedgerKind:
        """Which ledger this is."""

    @property
    def notice(self) -> str:
        """A sentence for the owner to read when this ledger is not the one that was asked for; else empty."""

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
        """Publish a data set; `DatasetInvalid` when the parts do not match or the name is taken."""

    def remove_dataset(self, name: str) -> None:
        """Withdraw a data set and erase this ledger's copy of it; `DatasetInvalid` when there is none."""

    def datasets(self) -> list[Dataset]:
        """All data sets by name: metadata only."""

    def load_private(self, name: str) -> dict[str, Array]:
        """The private arrays, [rows, ...] each; `DatasetInvalid` when there is no such data set or its file is bad."""

    def load_mock(self, name: str) -> dict[str, Array]:
        """The mock arrays: same tensor names, dtypes and shapes but for the rows."""

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Request:
        """Note a request, or find it again: the same digest with the same bytes from the same researcher is the same
        request, whatever was decided. Other bytes, another kind or another researcher under a known digest, and a job
        whose bytes do not have this digest: `JobNotApproved`, and nothing is changed."""

    def ask(self, digest: str, researcher: str, summary: str) -> Status:
        """`submit` of kind "get": may the value behind `digest` be released to `researcher`, once?"""

    def status(self, digest: str) -> Status:
        """Where the request stands now."""

    def request(self, digest: str) -> Request | None:
        """The request with its status and the owner's reason, or None."""

    def requests(self) -> list[Request]:
        """All requests, oldest first."""

    def payload(self, digest: str) -> bytes:
        """The very bytes that were approved; `JobNotApproved` unless `status` is "approved"."""

    def stored(self, digest: str) -> bytes:
        """The bytes that were asked about, for people to look at before they decide; `BadInput` for a digest that nobody
        asked for."""

    def decide(self, digest: str, approved: bool, reason: str = "") -> Request:
        """The owner's word; `BadInput` for a digest that nobody asked for. The last word counts."""

    def consume(self, digest: str) -> bool:
        """Spend an approval, atomically: True if the request is approved. A "get" is "used" from then on."""

    def deposit_receipt(self, digest: str, text: str) -> None:
        """Add a line for people about what was done under this approval (never a value)."""

    def receipts(self, digest: str) -> list[str]:
        """The receipts of a request, oldest first."""

    def changes(self) -> str:
        """A token that differs after any change, also by another process; compare it with the last one."""


def check_name(name: str) -> str:
    """`name`, when it can name a data set or a tensor."""
    if not _NAME.fullmatch(name):
        raise DatasetInvalid(
            f"{name!r} cannot be a name: use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first",
        )
    return name


def check_digest(digest: str) -> str:
    """`digest`, when it is lower-case hexadecimal of a sensible length."""
    if not _DIGEST.fullmatch(digest):
        raise BadInput("a digest is 8 to 128 lower-case hexadecimal digits")
    return digest


def describe(tensors: Mapping[str, Array]) -> dict[str, TensorInfo]:
    """Metadata of arrays, by name."""
    return {name: TensorInfo(tuple(a.shape[1:]), a.dtype.name) for name, a in sorted(tensors.items())}


def check_parts(name: str, private: Mapping[str, Array], mock: Mapping[str, Array]) -> dict[str, TensorInfo]:
    """Metadata of a data set whose private and mock parts agree; `DatasetInvalid` names the tensor that does not.

    All tensors of one part have the same number of rows, at least one; dtypes are fixed-width numbers or bools."""
    check_name(name)
    if not private:
        raise DatasetInvalid(f"data set {name!r} has no tensor: name the columns with --inputs")
    for part, tensors in (("private", private), ("mock", mock)):
        for tensor, array in tensors.items():
            check_name(tensor)
            if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
                raise DatasetInvalid(f"{part} tensor {tensor!r} of {name!r} has dtype {array.dtype}: use numbers")
            if array.ndim < 1 or not math.prod(array.shape[:1]):
                raise DatasetInvalid(f"{part} tensor {tensor!r} of {name!r} has no rows: the first dimension is rows")
        if len({a.shape[0] for a in tensors.values()}) > 1:
            raise DatasetInvalid(f"the {part} tensors of {name!r} have different numbers of rows: give each every row")
    infos, mock_infos = describe(private), describe(mock)
    if infos.keys() != mock_infos.keys():
        odd = ", ".join(sorted(infos.keys() ^ mock_infos.keys()))
        raise DatasetInvalid(f"private and mock part of {name!r} hold different tensors ({odd}): give both the same")
    for tensor, info in infos.items():
        if info != mock_infos[tensor]:
            raise DatasetInvalid(
                f"tensor {tensor!r} of {name!r}: the mock part has {_spell(mock_infos[tensor])}, "
                f"the private part {_spell(info)}: make the mock alike",
            )
    return infos


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal replaced; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _spell(info: TensorInfo) -> str:
    return f"{info.dtype}[{', '.join(['rows', *map(str, info.shape_without_rows)])}]"


def open_ledger(kind: LedgerKind, home: Path, owner: str) -> Ledger:
    """The ledger in the folder `home / "ledger"` (made with mode 0700) of the data owner with id `owner`.

    Where syft is asked for and not installed, the node keeps the same ledger in its own store, and `notice` says so;
    but `Unavailable` when a syft ledger is already there, whose decisions must not be passed over."""
    from smpc_fl.nodes.ledger.own import OwnLedger
    from smpc_fl.nodes.ledger.syft import syft_installed
    from smpc_fl.nodes.ledger.syft_ledger import SyftLedger

    folder = private_folder(home) / "ledger"
    if kind == "own":
        return OwnLedger(folder)
    if syft_installed():
        return SyftLedger(folder, owner)
    SyftLedger.refuse_if_kept(folder)
    return OwnLedger(
        folder,
        notice="syft is not installed, so data sets and consent are kept in this node's own store; "
        'install "smpc-fl[syft]" to keep them in Syft, or write ledger = "own" to silence this notice',
    )
