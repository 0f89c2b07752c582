"""What an owner holds: the tensors of its ledger's datasets, by the names that researchers use, and the work done on them.

A tensor's name is its own ("x") where no other dataset of this owner has one of that name, else "dataset/x". torch is
imported at the first job or command, not before: a restarted owner first says again what it has to say.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import DatasetInvalid, InternalError, ShapeMismatch, Unavailable, WeightOutOfRange
from smpc_fl.hashing import Buffer, digest
from smpc_fl.jobs import AggregateJob, Job, TrainJob
from smpc_fl.learning.metrics import evaluation_layout
from smpc_fl.learning.names import RESIDUAL
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.update import SecureVector, assemble, denominator
from smpc_fl.learning.update_functions import function_of, run_update
from smpc_fl.nodes.home.kept import Kept
from smpc_fl.nodes.ledger.base import Ledger
from smpc_fl.plans.update_document import update_of
from smpc_fl.pointers.lineage import decode_expression, names
from smpc_fl.privacy.adaptive import check_adaptive
from smpc_fl.privacy.records import check_job
from smpc_fl.protocols.work import Purpose, Work, compressor_of, number_of, weight_of, work_of

if TYPE_CHECKING:
    import torch

    from smpc_fl.learning.local_result import LocalResult
    from smpc_fl.nodes.registered import Holding
    from smpc_fl.plans.plan import Plan
    from smpc_fl.pointers.shapes import Spec

Array = npt.NDArray[Any]


class Holdings:
    """Read-only view of a ledger's datasets; `refresh` takes up what was added."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._where: dict[str, tuple[str, str]] = {}
        self._loaded: dict[str, dict[str, Array]] = {}
        self._digests: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the ledger's datasets again; the tensors themselves are read when they are needed."""
        datasets = self._ledger.datasets()
        counts: dict[str, int] = {}
        for dataset in datasets:
            for tensor in dataset.tensors:
                counts[tensor] = counts.get(tensor, 0) + 1
        self.datasets = {dataset.name: dataset for dataset in datasets}
        self._where = {
            (tensor if counts[tensor] == 1 else f"{dataset.name}/{tensor}"): (dataset.name, tensor)
            for dataset in datasets
            for tensor in dataset.tensors
        }
        self._loaded, self._digests = {}, {}  # a dataset may have been replaced under its name

    @property
    def names(self) -> list[str]:
        return sorted(self._where)

    def place(self, name: str) -> tuple[str, str]:
        """(dataset, tensor) of a name; `DatasetInvalid` says what there is instead."""
        if name in self._where:
            return self._where[name]
        raise DatasetInvalid(
            f"this owner has no tensor {name!r}; it has: {', '.join(self.names) or 'none, see `smpc-fl datasets add`'}",
            phase="job",
        )

    def registered(self) -> dict[str, Holding]:
        """All tensors as pointers see them: public metadata, and how to read them. A private number of rows is named
        after its dataset."""
        from smpc_fl.nodes.registered import Holding
        from smpc_fl.pointers.shapes import Spec

        holdings = {}
        for name, (dataset, tensor) in self._where.items():
            about = self.datasets[dataset]
            info = about.tensors[tensor]
            spec = Spec((dataset if about.rows is None else about.rows, *info.shape_without_rows), info.dtype)
            holdings[name] = Holding(name, spec, partial(self.tensor, name), partial(self._mock, name), about.tags)
        return holdings

    def array(self, name: str) -> Array:
        """The private tensor."""
        dataset, tensor = self.place(name)
        if dataset not in self._loaded:
            self._loaded[dataset] = self._ledger.load_private(dataset)
        return self._loaded[dataset][tensor]

    def digest(self, tensors: Iterable[str]) -> bytes:
        """32 bytes that name what is in these tensors now: a secret, because data that can be guessed can be tried. Takes
        about a second for a gigabyte, once."""
        digests = self._digests
        for name in (used := sorted(set(tensors))):
            if name not in digests:
                array = np.ascontiguousarray(self.array(name))
                # SHA-256 over the bytes, as for models: processors have instructions for it.
                content = hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
                digests[name] = digest("smpc-fl/1 tensor", array.dtype.str.encode(), str(array.shape).encode(), content)
        return digest("smpc-fl/1 data", *(part for name in used for part in (name.encode(), digests[name])))

    def _mock(self, name: str) -> torch.Tensor:
        import torch

        dataset, tensor = self.place(name)
        return torch.from_numpy(np.ascontiguousarray(self._ledger.load_mock(dataset)[tensor]))

    def tensor(self, name: str) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.array(name)))

    # --- can it be done? ---

    def check_training(self, job: TrainJob) -> None:
        """The plan is one that this node runs, and the tensors that it names are here. Raises `PlanRejected`, …"""
        update = update_of(job.plan)
        if update is not None:
            function_of(update)
        else:
            _read_plan(job.plan)
            job.strategy.check(job.local)
        check_job(job)
        check_adaptive(job)
        shared_of(job.plan, job.strategy, job.private)
        held_out: list[str] = []
        if job.evaluation is not None:
            evaluation_layout(job)
            held_out = [job.evaluation.inputs, job.evaluation.targets] if job.evaluation.inputs else []
        for name in sorted({*tensors_of(job, "train"), *held_out}):
            self.place(name)
        if job.weighting:
            from smpc_fl.pointers.policy import check_weighting

            expression = decode_expression(job.weighting)
            for name in names(expression):
                self.place(name)
            check_weighting(expression, self._leaves())

    def check_aggregate(self, job: AggregateJob, cohort: list[str], k_min: int) -> None:
        """All tensors are here, the value has the job's shape whatever the number of rows, and nobody is isolated."""
        from smpc_fl.pointers.policy import check_aggregate

        for name in names(decode_expression(job.expression)):
            self.place(name)
        check_aggregate(job, cohort, leaves=self._leaves(), k_min=k_min)

    def _leaves(self) -> dict[str, Spec]:
        return {name: holding.spec for name, holding in self.registered().items()}

    # --- work ---

    def dated_vector(
        self,
        job: Job,
        purpose: Purpose,
        round_number: int,
        model: Buffer,
        *,
        owner: str,
        cohort: list[str],
        kept: Kept,
        clip: float | None = None,
    ) -> tuple[SecureVector, bytes]:
        """As `vector`, and the digest of the data that it was computed on. Raises `Unavailable` if they changed meanwhile."""
        used = tensors_of(job, purpose)
        data = self.digest(used)
        vector = self.vector(job, purpose, round_number, model, owner=owner, cohort=cohort, kept=kept, clip=clip)
        if self.digest(used) != data:
            raise Unavailable("this owner's data changed while it computed: try again")
        return vector, data

    def vector(
        self,
        job: Job,
        purpose: Purpose,
        round_number: int,
        model: Buffer,
        *,
        owner: str,
        cohort: list[str],
        kept: Kept | None = None,
        clip: float | None = None,
    ) -> SecureVector:
        """This owner's secure vector for one round, computed, and to be clipped and weighed as it is encoded. What the
        round leaves for the next is staged in `kept`; without it, it is forgotten. `clip`: of the round's manifest."""
        work = work_of(job, purpose, clip)
        if isinstance(job, AggregateJob):
            payload, rows = self._operand(job)
            metrics: dict[str, float] = {}
        elif purpose == "train":
            result = self._train(job, round_number, np.frombuffer(model, np.float32), owner, kept)
            weight = weight_of(job, purpose, owner, cohort, self._weighing(job, result.rows))
            return self._trained_vector(job, work, round_number, result, weight, owner, kept)
        else:
            payload, rows = self._evaluate(job, round_number, np.frombuffer(model, np.float32), owner, kept)
            metrics = {}
        weight = weight_of(job, work.purpose, owner, cohort, rows)
        return assemble(payload, weight, metrics, layout=work.layout, clip=work.clip, mode=work.mode)

    def _trained_vector(
        self,
        job: TrainJob,
        work: Work,
        round_number: int,
        result: LocalResult,
        weight: float,
        owner: str,
        kept: Kept | None,
    ) -> SecureVector:
        keep = dict(result.keep)
        payload: Array = result.delta
        metrics, clipped = result.metrics, False
        if job.compression is not None:
            residual = (kept.read() if kept else {}).get(RESIDUAL, np.zeros_like(result.delta))
            compressor = compressor_of(job, round_number)
            payload, residual, clipped = compressor.compress(result.delta, residual, weight, owner)
            if job.compression.feedback:
                keep[RESIDUAL] = residual
        if kept:
            kept.stage(round_number, keep)
        metrics = {name: metrics[name] for name in work.layout.metrics}
        return assemble(payload, weight, metrics, layout=work.layout, clip=work.clip, mode=work.mode, clipped=clipped)

    def _train(
        self, job: TrainJob, round_number: int, model: npt.NDArray[np.float32], owner: str, kept: Kept | None
    ) -> LocalResult:
        update = update_of(job.plan)
        if update is not None:
            arrays = {name: self.array(name) for name in update.tensors}
            return run_update(
                update,
                model,
                arrays,
                seed=job.seed,
                owner=owner,
                number=number_of(round_number),
            )
        from smpc_fl.learning.training import train_locally

        x, y = self._training_rows(job, owner)
        before = kept.read() if kept else {}
        return train_locally(
            _read_plan(job.plan),
            model,
            x,
            y,
            job,
            round_number=round_number,
            owner=owner,
            kept=before,
            entropy=os.urandom,
        )

    def _weighing(self, job: TrainJob, rows: int) -> int:
        """What weighs this owner: its rows, or the value of the job's expression, rounded. Raises `WeightOutOfRange`."""
        from smpc_fl.pointers.evaluation import operand

        if not job.weighting:
            return rows
        expression = decode_expression(job.weighting)
        (value,) = operand(expression, {name: self.tensor(name) for name in names(expression)}, float(job.max_samples))
        if not 0.5 <= value <= denominator(job.max_samples):
            most = denominator(job.max_samples)
            raise WeightOutOfRange(
                f"what weighs this owner is not in 1..{most}: scale the job's weighting, or raise max_samples"
            )
        return round(float(value))

    def _training_rows(self, job: TrainJob, owner: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows but those that are held out."""
        from smpc_fl.learning.split import holdout

        x, y = self._aligned(job)
        if job.evaluation is None or job.evaluation.inputs:
            return x, y
        keep, _ = holdout(len(x), job.evaluation.fraction, job.seed, owner)
        return x[keep], y[keep]

    def _aligned(self, job: TrainJob) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.tensor(job.inputs), self.tensor(job.targets)
        if len(x) != len(y):
            raise ShapeMismatch(f"{job.inputs} and {job.targets} do not have one row each: publish them together")
        return x, y

    def _evaluate(
        self, job: TrainJob, round_number: int, model: npt.NDArray[np.float32], owner: str, kept: Kept | None
    ) -> tuple[Array, int]:
        """(averages in the slots of the job's evaluation, the rows behind them)."""
        from smpc_fl.learning.evaluation import evaluate
        from smpc_fl.learning.personal import finetuned, personal_model
        from smpc_fl.learning.split import holdout
        from smpc_fl.learning.training import own_model

        plan, evaluation, vectors = _read_plan(job.plan), job.evaluation, kept.read() if kept else {}
        if evaluation is None:
            raise InternalError("a round of evaluation for a job without one")
        x, y = self._aligned(job)
        if evaluation.inputs:
            x, y = self.tensor(evaluation.inputs), self.tensor(evaluation.targets)
        else:
            _, held_out = holdout(len(x), evaluation.fraction, job.seed, owner)
            x, y = x[held_out], y[held_out]
        own = own_model(shared_of(job.plan, job.strategy, job.private), model, vectors)
        averages, rows = evaluate(plan, own, x, y, evaluation.bins)
        if evaluation.finetune is not None:
            training = self._training_rows(job, owner)
            personal = finetuned(plan, own, *training, job, round_number=round_number, owner=owner)
        elif job.strategy.PERSONAL:
            personal = personal_model(own, vectors)
        else:
            return averages, rows
        return np.concatenate([averages, evaluate(plan, personal, x, y, evaluation.bins)[0]]), rows

    def _operand(self, job: AggregateJob) -> tuple[Array, int]:
        """(the expression's value float64[size], the rows that weigh it or 1 where they do not count)."""
        from smpc_fl.pointers.evaluation import operand
        from smpc_fl.pointers.policy import counted_group

        expression = decode_expression(job.expression)
        used = names(expression)
        value = operand(expression, {name: self.tensor(name) for name in used}, job.bound)
        if job.reduce == "sum" or job.weights is not None:
            return value, 1
        counted_group(expression, self._leaves())
        return value, max(len(self.array(name)) for name in used)


def tensors_of(job: Job, purpose: Purpose) -> Iterable[str]:
    """The names of the tensors that a round of this job reads."""
    if isinstance(job, AggregateJob):
        return names(decode_expression(job.expression))
    if purpose == "evaluate" and job.evaluation is not None and job.evaluation.inputs:
        return {job.evaluation.inputs, job.evaluation.targets}
    weighs = names(decode_expression(job.weighting)) if job.weighting and purpose == "train" else ()
    update = update_of(job.plan)
    reads = [job.inputs, job.targets] if update is None else update.tensors
    return {*reads, *weighs}


@lru_cache(maxsize=4)
def _read_plan(data: bytes) -> Plan:
    """Remembered, also between owners of one process: checking a plan takes longer than a round of a small network."""
    from smpc_fl.plans.plan import Plan

    return Plan.from_bytes(data)
