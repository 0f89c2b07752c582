"""`smpc-fl run JOB.toml`: scripted secure rounds, one step after another, against a federation, local or deployed.

A job file says where (a `[local]` section, or the researcher's config of a deployed federation) and what (`[[steps]]`:
a mean, a sum, or training). Everything is checked before the first step runs.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from rich.console import Console, Group
from rich.table import Table

from smpc_fl.errors import BadInput, ConfigInvalid, Unavailable
from smpc_fl.jobs import Evaluation, LocalTraining, Privacy, RingBits, Stop, UpdateBits
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.strategies import FedAvg
from smpc_fl.learning.strategy import Strategy, decode
from smpc_fl.nodes.client import Federation, connect
from smpc_fl.nodes.home.config import ResearcherConfig, load

if TYPE_CHECKING:
    from smpc_fl.nodes.training_run import Run
    from smpc_fl.plans.plan import Plan

_NO_NUL = r"^[^\x00]*\Z"
Path_ = Annotated[str, Meta(min_length=1, pattern=_NO_NUL)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True): ...


class LocalOwner(_Table, frozen=True, kw_only=True):
    """A data owner of a local federation: a file, and which columns are the tensors x and y."""

    private: Path_
    inputs: tuple[str, ...] = ()
    target: str = ""


class Local(_Table, frozen=True, kw_only=True):
    """Start the nodes on this machine, for this job alone."""

    owners: dict[str, LocalOwner]
    aggregators: Annotated[int, Meta(ge=2, le=64)] = 3
    k_min: Annotated[int, Meta(ge=2)] = 3
    round_deadline: Annotated[float, Meta(gt=0)] = 60.0
    ring_bits: RingBits | None = None
    ledger: Literal["syft", "own"] = "syft"


class Model(_Table, frozen=True, kw_only=True):
    """The network: dense layers of these widths with ReLU between, inputs first; or a function of a Python file of
    yours, `"model.py:make"`, that returns a `torch.nn.Module` (it runs here, never at an owner)."""

    layers: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    python: Annotated[str, Meta(pattern=_NO_NUL)] = ""
    inputs: Annotated[int, Meta(ge=1)] | None = None
    loss: Literal["cross_entropy", "mse", "bce_with_logits"] = "cross_entropy"
    fill_missing: bool = False
    seed: int = 0


class MeanStep(_Table, frozen=True, kw_only=True, tag_field="do", tag="mean"):
    """The mean of a tensor's columns over all owners' rows."""

    tensor: str
    bound: Annotated[float, Meta(gt=0)]
    weights: tuple[Annotated[float, Meta(gt=0)], ...] | None = None
    privacy: Privacy | None = None


class SumStep(_Table, frozen=True, kw_only=True, tag_field="do", tag="sum"):
    """The sum of a tensor's columns over all owners' rows."""

    tensor: str
    bound: Annotated[float, Meta(gt=0)]
    privacy: Privacy | None = None


class TrainStep(_Table, frozen=True, kw_only=True, tag_field="do", tag="train"):
    """Training, as `Federation.train`."""

    model: Model
    inputs: str = "x"
    targets: str = "y"
    rounds: Annotated[int, Meta(ge=1)] = 10
    strategy: Strategy = FedAvg()
    private: tuple[str, ...] = ()
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_owners: Annotated[int, Meta(ge=0)] = 0
    local: LocalTraining = LocalTraining()
    evaluation: Evaluation | None = None
    stop: Stop | None = None
    clip: Annotated[float, Meta(gt=0)] = 10.0
    max_samples: Annotated[int, Meta(ge=1)] = 10_000
    tolerance: Annotated[float, Meta(gt=0)] = 1e-2
    ring_bits: RingBits | None = None
    update_bits: UpdateBits | None = None
    compression: Compression | None = None
    seed: int | None = None
    privacy: Privacy | None = None


class JobFile(_Table, frozen=True, kw_only=True):
    steps: Annotated[tuple[MeanStep | SumStep | TrainStep, ...], Meta(min_length=1)]
    local: Local | None = None
    output: Annotated[str, Meta(pattern=_NO_NUL)] = ""


def read_job(path: Path) -> JobFile:
    """The job in a TOML file. Raises `ConfigInvalid` naming file and key."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), JobFile, dec_hook=decode)
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: cannot be read: {error.strerror}; examples/ has job files to begin with"
        ) from None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ConfigInvalid(f"{path}: {where.rstrip('`').lstrip('.') or 'the file'}: {what}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and tables within tables
        raise ConfigInvalid(f"{path}: is not TOML: {error}") from None


def run_job(path: Path, *, config: Path, output: Path | None = None, check: bool = False) -> None:
    """Run every step, with a table as it goes; results into `output` (or the file's own, or JOB-output beside it)."""
    job = read_job(path)
    console = Console()
    plans = [plan_of(step.model, path.parent) if isinstance(step, TrainStep) else None for step in job.steps]
    open_federation = _where(job, path, config)
    if check:
        console.print(f"{path}: {len(job.steps)} steps, ready to run")
        return
    folder = output or path.parent / (job.output or f"{path.stem}-output")
    folder.mkdir(parents=True, exist_ok=True)
    with open_federation() as federation:
        federation.on_waiting = lambda sentence: console.print(sentence, soft_wrap=True, highlight=False)
        console.print(f"{len(federation.owners)} owners, {len(federation.aggregators)} aggregators")
        for number, (step, plan) in enumerate(zip(job.steps, plans, strict=True), 1):
            stem = folder / (f"{number}-{type(step).__name__.removesuffix('Step').lower()}")
            if isinstance(step, TrainStep):
                assert plan is not None
                _train(federation, step, plan, stem, console)
            else:
                _aggregate(federation, step, stem, console)


def _where(job: JobFile, path: Path, config: Path) -> Callable[[], AbstractContextManager[Federation]]:
    """How to get the federation: the job's own local one, or the deployed one of `config`."""
    if job.local is None:
        if not config.exists():
            raise ConfigInvalid(
                f"{path} has no [local] section and there is no {config}: name the researcher's config of a deployed "
                "federation with --config, or describe a local one"
            )
        loaded = load(config, ResearcherConfig)
        return lambda: connect(loaded)
    from smpc_fl.nodes.ledger.datasets import read_dataset
    from smpc_fl.nodes.local import LocalFederation

    local = job.local
    owners = {
        owner: read_dataset(path.parent / about.private, list(about.inputs), about.target or None)
        for owner, about in local.owners.items()
    }
    return lambda: LocalFederation(
        owners,
        aggregators=local.aggregators,
        k_min=local.k_min,
        round_deadline=local.round_deadline,
        ring_bits=local.ring_bits,
        ledger=local.ledger,
    )


def plan_of(model: Model, folder: Path) -> Plan:
    """The plan of a step's network; files are found from the job's `folder`."""
    import torch

    from smpc_fl.plans.plan import Plan

    torch.manual_seed(model.seed)
    if bool(model.layers) == bool(model.python):
        raise ConfigInvalid("steps.model: give either `layers` or `python`")
    if model.layers:
        if len(model.layers) < 2:
            raise ConfigInvalid("steps.model.layers: at least two widths, inputs and outputs, such as [13, 16, 2]")
        width, net = model.layers[0], _dense(model.layers, model.fill_missing)
    else:
        if model.inputs is None:
            raise ConfigInvalid("steps.model.inputs: say how many columns the network of `python` takes")
        width, net = model.inputs, _from_python(model.python, folder)
    targets = torch.zeros(4, dtype=torch.long) if model.loss == "cross_entropy" else torch.zeros(4, 1)
    return Plan.from_module(net, loss=model.loss, example=(torch.zeros(4, width), targets))


def _dense(layers: tuple[int, ...], fill_missing: bool) -> Any:
    from torch import nn

    from smpc_fl.nodes.cli.job_models import FillMissing

    modules: list[nn.Module] = [FillMissing()] if fill_missing else []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(layers)):
        modules += [nn.ReLU()] if number else []
        modules.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*modules)


def _from_python(spec: str, folder: Path) -> Any:
    """The researcher's own file, run in the researcher's own process; what owners get is the exported graph."""
    import runpy

    file, _, name = spec.partition(":")
    path = folder / file
    if not path.is_file() or not name:
        raise ConfigInvalid(f'steps.model.python: {spec!r} must be "FILE.py:FUNCTION", and {path} must be there')
    found = runpy.run_path(str(path)).get(name)
    if not callable(found):
        raise ConfigInvalid(f"{path} defines no function {name!r}")
    return found()


def _aggregate(federation: Federation, step: MeanStep | SumStep, stem: Path, console: Console) -> None:
    from smpc_fl.pointers.aggregates import secure_mean, secure_sum

    pointers = [federation[owner].tensor(step.tensor) for owner in federation.owners]
    if isinstance(step, MeanStep):
        means = [p.double().mean(0) for p in pointers]
        value = secure_mean(means, weights=step.weights, bound=step.bound, privacy=step.privacy)
    else:
        value = secure_sum([p.double().sum(0) for p in pointers], bound=step.bound, privacy=step.privacy)
    kind = "mean" if isinstance(step, MeanStep) else "sum"
    console.print(f"{kind} of {step.tensor}: {value.tolist()}")
    stem.with_suffix(".json").write_text(json.dumps({"tensor": step.tensor, kind: value.tolist()}) + "\n")


def _train(federation: Federation, step: TrainStep, plan: Plan, stem: Path, console: Console) -> None:
    run = federation.train(plan, **training_options(step))
    show_run(run, console)
    write_run(run, stem, console)


def training_options(step: TrainStep) -> dict[str, Any]:
    """What a step says, as the keywords of `Federation.train` and of `simulate`."""
    return {name: getattr(step, name) for name in step.__struct_fields__ if name != "model"}


def show_run(run: Run, console: Console, note: Callable[[], str] = str) -> None:
    """A table that grows with every round, with a `note` below it; above it stands whose approval the run waited for."""
    from rich.live import Live

    table = Table("round")
    metrics: list[str] = []
    titled = False
    with Live(get_renderable=lambda: Group(table, note()), console=console, refresh_per_second=4) as live:
        for round_ in run:
            if not titled:
                titled, metrics = True, sorted(round_.metrics)
                for title in (*metrics, "owners", "seconds", "bytes an owner"):
                    table.add_column(title, justify="right")
            values = [f"{round_.metrics[name]:.4f}" if name in round_.metrics else "" for name in metrics]
            missing = f" (without {_some(list(round_.missing))})" if round_.missing else ""
            most = max(round_.traffic.uploaded.values(), default=0)
            table.add_row(
                str(round_.number), *values, f"{len(round_.included)}{missing}", f"{round_.seconds:.2f}", f"{most:,}"
            )
            live.refresh()
    if run.privacy is not None:
        console.print(str(run.privacy), highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.print()  # what rich leaves out where nobody watches


def _some(names: list[str]) -> str:
    """The first of thousands of names."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def write_run(run: Run, stem: Path, console: Console) -> None:
    """The model as safetensors, the rounds as JSON lines, the curves as a picture where matplotlib is there."""
    if not run.rounds:
        raise BadInput("the run ended before its first round")
    run.save_model(stem.with_suffix(".safetensors"))
    run.save_history(stem.with_suffix(".jsonl"))
    try:
        run.plot(stem.with_suffix(".svg"))
    except Unavailable as error:
        console.print(error.message)
    console.print(f"written: {stem}.*")
