"""A federation in memory for the tests of pointers: real object stores and a ledger, no network, aggregates in clear."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from smpc_fl.errors import JobNotApproved
from smpc_fl.jobs import AggregateJob
from smpc_fl.nodes.ledger.base import Request as Recorded
from smpc_fl.nodes.ledger.base import Status
from smpc_fl.nodes.objects import ObjectStore
from smpc_fl.nodes.registered import Holding, holding
from smpc_fl.pointers.evaluation import operand
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.policy import check_aggregate
from smpc_fl.pointers.session import AggregateResult, Release, Request, Response, encode_request, open_response

SESSION = b"session of tests"


class Stream:
    """Bytes that look random and are the same in every run."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._drawn = seed, 0

    def __call__(self, n: int, /) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._seed + self._drawn.to_bytes(8, "little")).digest(n)


class Book:
    """An owner's ledger, in memory."""

    def __init__(self) -> None:
        self.requests: dict[str, tuple[str, str, bytes]] = {}
        self.states: dict[str, Status] = {}
        self.receipts: list[str] = []
        self.spent_elsewhere = False

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Recorded:
        self.requests.setdefault(digest, (researcher, summary, payload))
        self.states.setdefault(digest, "pending")
        return Recorded(digest, kind, researcher, summary, 0.0, self.states[digest])

    def status(self, digest: str) -> Status:
        return self.states.get(digest, "unknown")

    def payload(self, digest: str) -> bytes:
        if self.status(digest) != "approved":
            raise JobNotApproved("not approved")
        return self.requests[digest][2]

    def consume(self, digest: str) -> bool:
        if self.spent_elsewhere or self.status(digest) != "approved":
            return False
        self.states[digest] = "used"
        return True

    def deposit_receipt(self, digest: str, text: str) -> None:
        self.receipts.append(text)

    def decide(self, status: Status) -> None:
        """The owner's word on everything that waits."""
        for digest, state in self.states.items():
            if state == "pending":
                self.states[digest] = status


class World:
    """A `Session` of researcher "rita"; `sent` counts the requests that reached an owner."""

    def __init__(self, tensors: Mapping[str, Sequence[Holding]], k_min: int = 3) -> None:
        self.now = 0.0
        self.registered = {owner: {h.name: h for h in held} for owner, held in tensors.items()}
        self.books = {owner: Book() for owner in tensors}
        self.stores = {
            owner: ObjectStore(
                lambda owner=owner: self.registered[owner],  # type: ignore[misc]
                entropy=Stream(owner.encode()),
                clock=lambda: self.now,
                lease_seconds=60.0,
            )
            for owner in tensors
        }
        self.researcher, self.session = "rita", SESSION
        self.sent: list[Request] = []
        self.jobs: list[AggregateJob] = []
        self._k_min = k_min

    @property
    def k_min(self) -> int:
        return self._k_min

    @property
    def owners(self) -> Sequence[str]:
        return sorted(self.stores)

    def raw(
        self, owner: str, request: Request, *, researcher: str | None = None, session: bytes | None = None
    ) -> Response:
        """What anyone may try: any request, as any researcher, in any session."""
        data = self.stores[owner].handle(
            researcher or self.researcher, session or self.session, encode_request(request), self.books[owner]
        )
        return open_response(data, owner=owner)

    def request(self, owner: str, request: Request) -> Response:
        self.sent.append(request)
        return self.raw(owner, request)

    def release(self, owner: str, object_id: bytes) -> None:
        self.raw(owner, Release((object_id,)))

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        """Every owner's own checks, then the weighted sum in clear."""
        self.jobs.append(job)
        total, weight, clipped = np.zeros(int(np.prod(job.shape))), 0.0, 0
        for place, owner in enumerate(owners):
            held = self.registered[owner]
            expression = check_aggregate(job, owners, leaves={n: h.spec for n, h in held.items()}, k_min=self.k_min)
            value = operand(expression, {name: h.private() for name, h in held.items()}, job.bound)
            clipped += bool((np.abs(value) > job.bound).any())
            rows = len(next(iter(held.values())).private()) / job.max_samples
            w = job.weights[place] if job.weights else (1.0 if job.reduce == "sum" else rows)
            total, weight = total + w * np.clip(value, -job.bound, job.bound), weight + w
        mean = total / weight if job.reduce == "mean" else total
        return AggregateResult(mean, list(owners), clipped, weight, 0.0)


def example(rows: int, seed: int = 0) -> torch.Tensor:
    """float32[rows, 4], around zero."""
    return torch.randn((rows, 4), generator=torch.Generator().manual_seed(seed))


def three(rows: Sequence[int] = (5, 7, 11)) -> World:
    """alice, bob and carol, each with "x" float32[rows, 4] and labels "y" int64[rows]."""
    return World(
        {
            owner: [
                holding("x", example(n, seed), group="data", tags=("heart",), mock=torch.zeros(2, 4)),
                holding("y", torch.arange(n) % 3, group="data", tags=("#labels",)),
            ]
            for seed, (owner, n) in enumerate(zip(("alice", "bob", "carol"), rows, strict=True))
        }
    )


def at(world: World, owner: str, name: str = "x") -> PointerTensor:
    from smpc_fl.pointers.pointer import tensor

    return tensor(world, owner, name)
