"""Programs on shared tensors between real processes on loopback, timed: `python -m bench.shared_tensors --live [WORD ...]`.

Parties, the crypto provider and the researcher are processes of their own. `run`: seconds from the researcher's call until
all parties hold their shares of the outputs, dealing included; `opened`: seconds to open an output, beside it. Bytes are
those on the sockets: `online` between parties, `dealt` from the provider. `cpu`: seconds of all processes but the researcher's.
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from smpc_fl.nodes.home.config import AggregatorConfig, ProviderConfig, load_any
from smpc_fl.nodes.local import LocalFederation
from smpc_fl.shared_tensors.cost import cost
from smpc_fl.shared_tensors.words import encode

if TYPE_CHECKING:
    from smpc_fl.nodes.shared_session import SharedSession
    from smpc_fl.shared_tensors.draft import Draft, Value

REPEATS = 5
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Wire:
    """Bytes that have been sent so far: by parties to one another and to the researcher, and by the provider; CPU seconds."""

    parties: int
    provider: int
    cpu: float

    @classmethod
    def of(cls, federation: LocalFederation) -> Wire:
        sent = {member: _sent(federation, member) for member in federation.processes if member != "coordinator"}
        cpu = sum(_cpu(pid) for member, pid in federation.processes.items() if member != "coordinator")
        return cls(sum(sent.values()) - sent["provider"], sent["provider"], cpu)

    def __sub__(self, other: Wire) -> Wire:
        return Wire(self.parties - other.parties, self.provider - other.provider, self.cpu - other.cpu)


def _sent(federation: LocalFederation, member: str) -> int:
    config = load_any(federation.config_path(member))
    assert isinstance(config, AggregatorConfig | ProviderConfig)
    with urllib.request.urlopen(f"http://{config.listen}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("smpc_fl_sent_bytes_total"))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def measure(
    federation: LocalFederation, session: SharedSession, draft: Draft, outputs: Sequence[Value]
) -> tuple[float, float, Wire, int]:
    """Median seconds of a run, seconds to open its first output, bytes and CPU of a run, and rounds."""
    program = draft.program(*outputs)
    inputs = {
        str(step.parameters["name"]): session.store(
            encode(torch.rand(step.type.shape, dtype=torch.float64) - 0.5, step.type.scale)
        )
        for step in program.steps
        if step.operation == "input"
    }
    public = draft.public_words(program)
    for name in session.run(program, public, inputs):  # the first time, programs are read and memory is had
        session.forget(name)
    before, seconds, opening = Wire.of(federation), [], 0.0
    for number in range(REPEATS):
        start = time.perf_counter()
        names = session.run(program, public, inputs)
        seconds.append(time.perf_counter() - start)
        if number == REPEATS - 1:
            spent = Wire.of(federation) - before
            start = time.perf_counter()
            session.open(names[0])
            opening = time.perf_counter() - start
        for name in names:
            session.forget(name)
    for name in inputs.values():
        session.forget(name)
    each = Wire(spent.parties // REPEATS, spent.provider // REPEATS, spent.cpu / REPEATS)
    return median(seconds), opening, each, cost(program, len(session.parties)).rounds


def live(cases: Mapping[str, Callable[[], tuple[Draft, Sequence[Value]]]], words: Sequence[str]) -> None:
    """Words choose the rows that contain one."""
    print(
        f"{'':<32}{'parties':>8}{'run s':>9}{'opened s':>10}{'cpu s':>8}{'online MB':>11}{'dealt MB':>10}{'rounds':>8}"
    )
    for parties in (2, 3):
        with (
            LocalFederation({}, aggregators=parties, provider=True) as federation,
            federation.shared_tensors() as session,
        ):
            for name, write in cases.items():
                if not words or any(word in name for word in words):
                    run, opened, wire, rounds = measure(federation, session, *write())
                    figures = f"{run:>9.3f}{opened:>10.3f}{wire.cpu:>8.3f}{wire.parties / 1e6:>11.2f}"
                    print(f"{name:<32}{parties:>8}{figures}{wire.provider / 1e6:>10.2f}{rounds:>8}", flush=True)
