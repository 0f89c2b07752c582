"""A run as the researcher holds it: an iterator of rounds that outlives the coordinator's restarts."""

from __future__ import annotations

import copy
import os
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, SmpcError, Unavailable, from_code
from smpc_fl.jobs import Job, TrainJob, encode_job, job_digest
from smpc_fl.learning.stopping import better_when
from smpc_fl.nodes.training_files import save_history, save_model
from smpc_fl.protocols.manifest import model_digest
from smpc_fl.protocols.messages import (
    CancelRun,
    Message,
    ResumeRun,
    RoundResult,
    RunState,
    StartRun,
    Subscribe,
)

if TYPE_CHECKING:
    import torch

    from smpc_fl.nodes.channel import Channel
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan
    from smpc_fl.privacy.accounting import Spent

LOST = "Lost"
"""Code by which a channel says that the coordinator does not know the run: it was killed before it had noted it."""
LONGEST_SILENCE = 120.0
"""Seconds without a connection to the coordinator after which waiting is given up."""


@dataclass(frozen=True)
class Traffic:
    """Bytes on the sockets, by owner, for one training round (its evaluation included)."""

    uploaded: dict[str, int]


@dataclass(frozen=True)
class Round:
    """One training round. `metrics`: securely aggregated. `included`: S. `missing`: who was not in S, and why.
    `model`: float32[d] after the round. `worst_error`: bound on the decoding error of any slot of the mean. `clip`: of this
    round, as its manifest said."""

    number: int
    metrics: dict[str, float]
    seconds: float
    traffic: Traffic
    included: list[str]
    missing: dict[str, str]
    total_weight: float
    clipped: int
    worst_error: float
    attempts: int
    ring_bits: int
    clip: float
    model: npt.NDArray[np.float32] = field(repr=False)


class Feed(Protocol):
    """Where a run's rounds come from: a coordinator (`Following`), or a simulation."""

    @property
    def id(self) -> bytes: ...
    @property
    def state(self) -> RunState:
        """As the source said last."""

    @property
    def digest(self) -> str:
        """The job's, hexadecimal."""

    def events(self) -> Iterator[tuple[RoundResult, bytes]]:
        """Each round's result once, in order, with the model after it. Raises what the run failed with, every time."""

    def cancel(self) -> None:
        """Stop before the next round."""


class Following:
    """Hears of one run until it ends. Safe against lost connections: it asks again for what it has not had."""

    def __init__(
        self, channel: Channel, job: Job, cohort: list[str], model: bytes, on_waiting: Callable[[str], object]
    ) -> None:
        """`on_waiting` is told, in a sentence, whose approval is waited for, whenever that changes."""
        self._hears(channel, os.urandom(16), on_waiting)
        self._start = StartRun(self.id, encode_job(job), sorted(cohort), model_digest(model))
        self._model = model
        channel.follow(self.id, self._hear, self._again)
        channel.tell(self._start, model)

    def _hears(self, channel: Channel, run: bytes, on_waiting: Callable[[str], object]) -> None:
        self.id = run
        self.state = RunState(run, "waiting", 0)
        self._channel = channel
        self._seen = 0
        self._on_waiting, self._said = on_waiting, ""
        self._failure: SmpcError | None = None
        self._events: queue.SimpleQueue[tuple[RoundResult | RunState, bytes]] = queue.SimpleQueue()

    def _lost(self) -> None:
        """The coordinator was killed before it had noted the run: it hears of it again."""
        self._channel.tell(self._start, self._model)

    @property
    def digest(self) -> str:
        return job_digest(self._start.job).hex()

    def _hear(self, message: RoundResult | RunState, value: bytes) -> None:
        """Called in the channel's thread: the state is current even while nobody iterates."""
        if isinstance(message, RunState) and message.code != LOST:
            self.state = message
        self._events.put((message, value))

    def _again(self) -> tuple[Message, bytes | None]:
        return Subscribe(self.id, self._seen), None

    def events(self) -> Iterator[tuple[RoundResult, bytes]]:
        """Each round's result once, in order, until the run has finished. Raises what it failed with, every time."""
        if self._failure is not None:
            raise self._failure
        silent_since = time.monotonic()
        while True:
            try:
                message, value = self._events.get(timeout=0.5)
            except queue.Empty:
                self._channel.check()
                if self._channel.connected:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > LONGEST_SILENCE:
                    raise Unavailable(
                        f"the coordinator has been away for {LONGEST_SILENCE:.0f} s; the run goes on when it is back: "
                        "iterate again to hear of it"
                    ) from None
                continue
            silent_since = time.monotonic()
            if isinstance(message, RoundResult):
                if message.number == self._seen + 1:
                    self._seen = message.number
                    yield message, value
                continue
            if message.code == LOST:
                self._lost()
                continue
            if message.state == "waiting" and message.text not in ("", self._said):
                self._said = message.text
                self._on_waiting(f"job {self.digest[:16]} waits for {message.text}")
            if message.state == "failed":
                self._channel.unfollow(self.id)
                self._failure = from_code(message.code, message.text)
                raise self._failure
            if message.state == "finished" and self._seen >= message.rounds:
                self._channel.unfollow(self.id)
                return

    def cancel(self) -> None:
        self._channel.tell(CancelRun(self.id))


class Resumed(Following):
    """Hears of a run of an earlier session, from its first round on, and has it go on where it was stopped."""

    def __init__(self, channel: Channel, run: bytes, on_waiting: Callable[[str], object]) -> None:
        self._hears(channel, run, on_waiting)
        channel.follow(run, self._hear, self._again)
        channel.tell(ResumeRun(run))
        channel.tell(Subscribe(run, 0))

    @property
    def digest(self) -> str:
        return ""  # it is the coordinator that knows the job

    def _lost(self) -> None:
        self._channel.unfollow(self.id)
        self._failure = Unavailable(f"the coordinator knows no run {self.id.hex()} of yours")
        raise self._failure


class Run:
    """Training under way: iterate for its rounds. `model` is the newest global model."""

    def __init__(
        self, feed: Feed, plan: Plan | UpdatePlan, first: npt.NDArray[np.float32], job: TrainJob | None = None
    ) -> None:
        """`job`: None where only the coordinator knows it."""
        self._feed, self._job = feed, job
        self._plan = plan
        self._stop = job.stop if job is not None else None
        self._vector = first
        self.rounds: list[Round] = []
        self._events = self._rounds()

    def __repr__(self) -> str:
        return f"<Run {self._feed.id.hex()[:8]} {self.status}, {len(self.rounds)} rounds>"

    @property
    def id(self) -> str:
        """Names the run at the coordinator: `Federation.resume` goes on with it, in another session as well."""
        return self._feed.id.hex()

    @property
    def status(self) -> str:
        """waiting (for approvals, which it names), running, finished or failed, as the coordinator said last."""
        state = self._feed.state
        return f"{state.state}: {state.text}" if state.text else state.state

    @property
    def digest(self) -> str:
        """The job's digest, hexadecimal: what owners see, and what they approve."""
        return self._feed.digest

    def _rounds(self) -> Iterator[Round]:
        for result, value in self._feed.events():
            # Behind the model is what the server's strategy keeps.
            self._vector = np.frombuffer(value, np.float32, count=self._plan.layout.size).copy()
            round_ = Round(
                result.number, result.metrics, result.seconds, Traffic(result.uploaded), list(result.included),
                result.missing, result.total_weight, result.clipped, result.worst_error, result.attempts,
                result.ring_bits, result.clip, self._vector,
            )  # fmt: skip
            self.rounds.append(round_)
            yield round_

    def __iter__(self) -> Iterator[Round]:
        """Every round once, from the first; an iterator that was left goes on, and a new one begins anew."""
        at = 0
        while True:
            while at < len(self.rounds):
                yield self.rounds[at]
                at += 1
            try:
                next(self._events)
            except StopIteration:
                if at == len(self.rounds):
                    return
            except BaseException:  # also Ctrl-C: who iterates again goes on
                self._events = self._rounds()
                raise

    def wait(self) -> Run:
        """To the end; returns itself."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Ask the coordinator to stop before the next round."""
        self._feed.cancel()

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The newest global model, float32[d], in the plan's layout; once the run has finished, the best one where its
        `Stop` says restore_best."""
        stop = self._stop
        if stop is not None and stop.restore_best and self._feed.state.state == "finished" and self.rounds:
            return self.best(stop.metric).model.copy()
        return self._vector.copy()

    def best(self, metric: str = "val_loss") -> Round:
        """The round, so far, after which this metric was best: the lowest loss, the highest of anything else. Raises
        `BadInput` where no round has it."""
        having = [round_ for round_ in self.rounds if metric in round_.metrics]
        if not having:
            there = sorted({name for round_ in self.rounds for name in round_.metrics})
            raise BadInput(f"no round has the metric {metric!r}; there are: {', '.join(there) or 'none yet'}")
        sign = better_when(metric)
        return max(having, key=lambda round_: sign * round_.metrics[metric])

    @property
    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """The tensors of `vector` by the plan's names: float32 copies."""
        return self._plan.layout.unflatten(self.vector)

    @property
    def model(self) -> torch.nn.Module:
        """A copy of the plan's module with the weights of `vector`. Raises `BadInput` for an update function: `tensors`."""
        return self._plan.module_with(self.vector)

    def save_model(self, path: str | os.PathLike[str]) -> None:
        """Write the model of `vector` as .safetensors or .pt2 (`torch.export`)."""
        save_model(path, self._plan, self.vector)

    def save_history(self, path: str | os.PathLike[str]) -> None:
        """Write the rounds so far, a line each, as .jsonl or .parquet; `smpc-fl plot` draws either."""
        save_history(path, self.rounds)

    @property
    def privacy(self) -> Spent | None:
        """What the rounds so far have cost, by `dp-accounting` (extra `privacy`); None for a job without noise: no bound.
        Raises `BadInput` for a run of another session, whose job this one does not know."""
        if self._job is None:
            raise BadInput(
                "this session did not begin the run: ask the one that did, or dp-accounting, what it has cost"
            )
        if self._job.local.privacy is not None:
            from smpc_fl.privacy.records import spent as spent_on_records

            return spent_on_records(self._job.local, len(self.rounds))
        if self._job.privacy is None:
            return None
        from smpc_fl.privacy.accounting import spent
        from smpc_fl.protocols.work import releases

        return spent(self._job.privacy, len(self.rounds), releases(self._job, len(self.rounds)))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the metrics of the rounds so far into a PNG or SVG file (needs matplotlib)."""
        from smpc_fl.nodes.plots import draw_curves

        draw_curves([copy.deepcopy(round_.metrics) for round_ in self.rounds], path)


def wait_for(following: Following) -> tuple[RoundResult, bytes]:
    """The only result of an aggregate."""
    return list(following.events())[-1]
