"""A researcher's federation: pointers, secure aggregates, training, status. `sf.connect` gives one; so does
`LocalFederation`, which is one with the nodes started for you."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import structlog

from smpc_fl.errors import BadInput, CohortTooSmall, Unavailable, UnknownMember
from smpc_fl.jobs import AggregateJob, Evaluation, LocalTraining, Privacy, RingBits, Stop
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.strategy import Strategy
from smpc_fl.nodes.channel import Channel
from smpc_fl.nodes.home.config import ResearcherConfig, load
from smpc_fl.nodes.training_job import training_job
from smpc_fl.nodes.training_run import Following, Resumed, Run, wait_for
from smpc_fl.pointers.session import AggregateResult, Release, Request, Response, encode_request, open_response
from smpc_fl.protocols.messages import Status

if TYPE_CHECKING:
    import torch

    from smpc_fl.nodes.shared_session import SharedSession
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan
    from smpc_fl.pointers.pointer import PointerTensor


log = structlog.get_logger()


class OwnerHandle:
    """One data owner, as a researcher sees it: names, shapes, mocks and pointers, never numbers."""

    def __init__(self, federation: Federation, owner: str) -> None:
        self._federation, self.id = federation, owner

    def __repr__(self) -> str:
        return f"<data owner {self.id}>"

    def search(self, query: str = "") -> list[PointerTensor]:
        """Pointers to all registered tensors, to those with a "#tag", or to the one of this name."""
        from smpc_fl.pointers import pointer

        return pointer.search(self._federation, self.id, query)

    def tensor(self, name: str) -> PointerTensor:
        """A pointer to the registered tensor `name`."""
        from smpc_fl.pointers import pointer

        return pointer.tensor(self._federation, self.id, name)

    def mock(self, name: str) -> torch.Tensor:
        """The public, invented stand-in of a registered tensor."""
        from smpc_fl.pointers import pointer

        return pointer.mock(self._federation, self.id, name)

    def claim(self, digest: str) -> PointerTensor:
        """The pointer that a request of an earlier session was about, once the owner has approved it."""
        from smpc_fl.pointers import pointer

        return pointer.claim(self._federation, self.id, digest)


class Federation:
    """A connection to a federation's coordinator, and through it to everybody. A context manager."""

    def __init__(self, config: ResearcherConfig) -> None:
        self._channel = Channel(config)
        self._k_min = config.k_min
        self.on_waiting: Callable[[str], object] = _log_waiting
        """Told, in a sentence, whose approval a run or an aggregate waits for; by default it is logged."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; runs under way go on at the coordinator, objects die with their leases."""
        self._channel.close()

    def wait_connected(self, timeout: float = 30.0) -> Self:
        self._channel.wait_connected(timeout)
        return self

    # --- members ---

    @property
    def owners(self) -> list[str]:
        """Ids of the data owners, sorted."""
        return [member.id for member in self._channel.members.current.owners]

    @property
    def aggregators(self) -> list[str]:
        return [member.id for member in self._channel.members.current.aggregators]

    @property
    def k_min(self) -> int:
        return self._k_min

    def __getitem__(self, owner: str) -> OwnerHandle:
        if owner not in self.owners:
            raise UnknownMember(f"{owner!r} is no data owner of this federation; owners: {', '.join(self.owners)}")
        return OwnerHandle(self, owner)

    def __iter__(self) -> Iterator[OwnerHandle]:
        return (self[owner] for owner in self.owners)

    def search(self, query: str = "") -> dict[str, list[PointerTensor]]:
        """{owner: pointers} for "#tag", a name, or everything; owners without a match are left out."""
        found = {owner: self[owner].search(query) for owner in self.owners}
        return {owner: pointers for owner, pointers in found.items() if pointers}

    def status(self) -> Status:
        """Members and runs, as the coordinator sees them."""
        return self._channel.status()

    def wait_for_owners(self, timeout: float = 60.0) -> Self:
        """Until every member of the roster is connected. Raises `Unavailable` naming who is not."""
        until = time.monotonic() + timeout
        while True:
            away = [m.id for m in self.status().members if not m.connected and m.role in ("owner", "aggregator")]
            if not away:
                return self
            if time.monotonic() > until:
                raise Unavailable(f"not connected after {timeout:.0f} s: {', '.join(away)}")
            time.sleep(0.1)

    def _waits(self, sentence: str) -> None:
        self.on_waiting(sentence)

    # --- shared tensors ---

    def shared_tensors(
        self, *, parties: Sequence[str] | None = None, provider: str | None = None, deadline: float = 60.0
    ) -> SharedSession:
        """A session that computes on tensors which nobody sees: `parties` (all aggregators, if nothing is said) hold shares,
        `provider` deals randomness. `deadline`: seconds that a run may take."""
        from smpc_fl.nodes.shared_session import SharedSession

        return SharedSession(self._channel, parties or self.aggregators, provider, deadline)

    # --- the Session that pointers call ---

    def request(self, owner: str, request: Request) -> Response:
        """An owner's response; raises what the owner refuses with."""
        return open_response(self._channel.ask_owner(owner, encode_request(request)), owner=owner)

    def release(self, owner: str, object_id: bytes) -> None:
        self._channel.tell_owner_later(owner, lambda: encode_request(Release((object_id,))))

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        """One secure aggregate over exactly this cohort."""
        following = Following(self._channel, job, list(owners), b"", self._waits)
        result, value = wait_for(following)
        return AggregateResult(
            np.frombuffer(value, np.float64).copy(), list(result.included), result.clipped, result.total_weight,
            result.worst_error,
        )  # fmt: skip

    # --- learning ---

    def train(
        self,
        plan: Plan | UpdatePlan,
        *,
        inputs: str | None = None,
        targets: str | None = None,
        rounds: int = 10,
        local: LocalTraining | None = None,
        strategy: Strategy | None = None,
        weighting: PointerTensor | bytes | None = None,
        private: Sequence[str] = (),
        fraction: float = 1.0,
        min_owners: int = 0,
        evaluation: Evaluation | None = None,
        stop: Stop | None = None,
        owners: Sequence[str] | None = None,
        clip: float = 10.0,
        max_samples: int = 10_000,
        tolerance: float = 1e-2,
        ring_bits: RingBits | None = None,
        update_bits: int | None = None,
        compression: Compression | None = None,
        seed: int | None = None,
        privacy: Privacy | None = None,
    ) -> Run:
        """Train `plan` over all owners (or `owners`), and give an iterator of its rounds.

        `inputs`, `targets`: names of the owners' tensors, "x" and "y" if nothing is said; an `UpdatePlan` names its own, and
        takes neither `local` nor `evaluation`. `weighting`: a pointer of one
        number, such as `fed[o].tensor("x")[:, 0].sum()`: every owner computes it on its own tensors, and is weighed by it in
        training instead of by its rows. `private`: names or patterns of the model's tensors that every
        owner has for itself ("head.*"). `fraction`: part of the owners that is drawn for each training round; `min_owners`:
        fewest whose sum is taken. `clip`: largest L2 norm of an owner's update.
        `max_samples`: public cap on an owner's rows. `tolerance`: largest decoding error that is accepted, in the worst
        case of k_min owners of one row each. `ring_bits`: bits that a number takes on the wire, 8 to 64, or "fit" for the
        fewest that the tolerance allows; `update_bits`: bits of one owner's number, the ring's then being the fewest that
        hold the sum; `compression`: fewer bytes still, for a rougher mean. `seed`: repeats a run; drawn by the
        system without it. `privacy`: noise for differential privacy; then `Run.privacy` says what it has cost."""
        cohort = sorted(owners) if owners is not None else self.owners
        if len(cohort) < self._k_min:
            raise CohortTooSmall(f"{len(cohort)} owners are fewer than k_min = {self._k_min}: add owners")
        first = plan.initial
        job = training_job(
            plan, inputs=inputs, targets=targets, rounds=rounds, local=local, strategy=strategy, weighting=weighting,
            private=private, fraction=fraction, min_owners=min_owners, evaluation=evaluation, stop=stop, clip=clip,
            max_samples=max_samples, tolerance=tolerance, ring_bits=ring_bits,
            update_bits=update_bits, compression=compression, seed=seed, privacy=privacy,
        )  # fmt: skip
        return Run(Following(self._channel, job, cohort, first.tobytes(), self._waits), plan, first, job)

    def resume(self, run: str, plan: Plan | UpdatePlan) -> Run:
        """Go on with a run of training that was stopped (`Run.cancel`), from the coordinator's disk, with the same result as
        if it had not been; and hear of any run of yours, from its first round on, that another session began.

        `run`: its `Run.id`; `plan`: the one that it trains."""
        try:
            id_ = bytes.fromhex(run)
        except ValueError:
            id_ = b""
        if len(id_) != 16:
            raise BadInput(f"{run!r} is no id of a run: it is `Run.id`, 32 hexadecimal digits")
        return Run(Resumed(self._channel, id_, self._waits), plan, plan.initial)


def _log_waiting(sentence: str) -> None:
    log.info("waiting", message=sentence)


def connect(config: str | Path | ResearcherConfig, *, timeout: float = 30.0) -> Federation:
    """A federation that runs elsewhere, by its researcher's config ("federation.toml").

    Raises `ConfigInvalid`, or `Unavailable` when the coordinator does not answer within `timeout` seconds."""
    loaded = config if isinstance(config, ResearcherConfig) else load(config, ResearcherConfig)
    federation = Federation(loaded)
    try:
        return federation.wait_connected(timeout)
    except BaseException:
        federation.close()
        raise


def show_status(config: ResearcherConfig) -> None:
    """`smpc-fl status`: members, runs and traffic."""
    from rich.console import Console
    from rich.table import Table

    with connect(config, timeout=10.0) as federation:
        status = federation.status()
    console = Console()
    members = Table("member", "role", "connected", title=f"roster version {status.roster_version}")
    for member in status.members:
        members.add_row(member.id, member.role, "yes" if member.connected else "no")
    runs = Table("run", "kind", "state", "rounds", "uploaded", title="runs")
    for run in status.runs:
        runs.add_row(run.run.hex()[:8], run.kind, run.state, str(run.rounds), f"{run.uploaded:,} B")
    console.print(members)
    console.print(runs if status.runs else "no runs yet")
