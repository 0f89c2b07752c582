"""Flower's SecAgg+ on the same vectors, in the environment that `scripts/bench peers` makes. Imports nothing of ours.

    python flower.py CASE.json   ->   figures as JSON on standard output

Flower's own workflow and its own client app with its own SecAgg+ mod, without sockets, disks or training, in one of three
engines:

- "ray": Flower's Simulation Runtime as `run_simulation` starts it: client apps in Ray's processes;
- "threads": the same, with Ray replaced by calls in threads, so that no array is copied to another process;
- "calls": no engine, message store or polling at all, the client app is called by the grid. No user of Flower gets that; it
  is the cost of Flower's arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # or Ray writes a token into the home

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext, ServerConfig, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.default_workflows import default_fit_workflow
from flwr.serverapp import ServerApp
from flwr.serverapp.grid import Grid
from flwr.simulation.run_simulation import run_simulation
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Case = dict[str, Any]
Figures = dict[str, Any]

NODE = 1000
"""Id of the first client's node, without an engine."""


class Prepared(NumPyClient):  # type: ignore[misc]
    """A client whose update is ready."""

    def __init__(self, update: Any, examples: int) -> None:
        self.update, self.examples = update, examples

    def fit(self, parameters: Any, config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        return [self.update], self.examples, {}


def call(app: ClientApp, message: Message, context: Context) -> Message:
    """The client app's answer. The mod takes entries out of the configuration that all clients share: each gets its own;
    arrays are not copied."""
    content = RecordDict(dict(message.content))
    for key, record in message.content.config_records.items():
        content.config_records[key] = ConfigRecord(dict(record))
    message.content = content
    return app(message, context)


class Calls(Grid):  # type: ignore[misc]
    """A grid that is only calls."""

    def __init__(self, app: ClientApp, owners: int, threads: int) -> None:
        self.app = app
        self.contexts = {NODE + i: _context(NODE + i, {"partition-id": i}) for i in range(owners)}
        self.pool = ThreadPoolExecutor(threads)
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self.pool.map(self._one, messages))

    def _one(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(uuid4())
        answer = call(self.app, message, self.contexts[message.metadata.dst_node_id])
        answer.metadata.__dict__["_message_id"] = str(uuid4())
        return answer


def backend(app: ClientApp, threads: int) -> type[Backend]:
    """A backend of the Simulation Runtime whose workers are its own threads."""

    class Threads(Backend):  # type: ignore[misc]
        def build(self, app_fn: Callable[[], ClientApp]) -> None:
            pass

        @property
        def num_workers(self) -> int:
            return threads

        def is_worker_idle(self) -> bool:
            return True

        def terminate(self) -> None:
            pass

        def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
            return call(app, message, context), context

    return Threads


def _context(node: int, config: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})


def cpu_seconds() -> float:
    """Of this process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    total, family = 0.0, [os.getpid()]
    while family:
        pid = family.pop()
        family += children.get(pid, [])
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # its CPU clock: clock_getcpuclockid(3)
    return total


def peak() -> int:
    """Bytes of this process at most. (`ru_maxrss` would begin with what the process that started us had.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Counted:
    """A grid, and the bytes of the answers that came through it while `counting`."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.counting, self.uploaded = False, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        answers = list(self.grid.send_and_receive(messages, timeout=timeout))
        if self.counting:
            self.uploaded += sum(recorddict_to_proto(answer.content).ByteSize() for answer in answers)
        return answers


def rounds(grid: Grid, case: Case) -> Figures:
    """`case["rounds"]` timed rounds after one that is not."""
    shape = np.load(case["updates"][0], mmap_mode="r").shape
    owners = len(case["updates"])
    manager = SimpleClientManager()
    for node in grid.get_node_ids():
        manager.register(GridClientProxy(node_id=node, grid=grid, run_id=1))
    model = ndarrays_to_parameters([np.zeros(shape, np.float32)])
    strategy = FedAvg(
        fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=owners, min_available_clients=owners,
        initial_parameters=model,
    )  # fmt: skip
    context = LegacyContext(
        _context(0, {}), config=ServerConfig(num_rounds=1), strategy=strategy, client_manager=manager
    )
    workflow = default_fit_workflow
    if case["secure"]:
        shares, threshold = (case["shares"], 2) if case["shares"] else (1.0, 0.5)
        workflow = SecAggPlusWorkflow(shares, threshold, max_weight=float(max(case["examples"])))
    counted = Counted(grid)
    walls, cpus = [], []
    for number in range(case["rounds"] + 1):
        context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(model, keep_input=True)
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number + 1})
        counted.counting = number == 0
        cpu, wall = cpu_seconds(), time.perf_counter()
        workflow(counted, context)
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(cpu_seconds() - cpu)
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    found = parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, keep_input=True))[0]
    return {
        "seconds": walls,
        "cpu": cpus,
        "uploaded": counted.uploaded,
        "error": float(np.max(np.abs(found - np.load(case["exact"])))),
        "peak": peak(),
    }


def main(case: Case) -> Figures:
    """`case`: updates (.npy files), exact (one), examples, rounds, threads, shares (0: one for everybody), secure, engine."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    paths, examples = case["updates"], case["examples"]

    def client(context: Context) -> Any:
        number = int(context.node_config["partition-id"])
        return Prepared(np.load(paths[number], mmap_mode="r"), examples[number]).to_client()

    app = ClientApp(client_fn=client, mods=[secaggplus_mod] if case["secure"] else [])
    if case["engine"] == "calls":
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        return rounds(Calls(app, len(paths), case["threads"]), case)
    if case["engine"] == "threads":
        replaced: Any = ModuleType("raybackend")
        replaced.RayBackend = backend(app, case["threads"])
        sys.modules["flwr.server.superlink.fleet.vce.backend.raybackend"] = replaced
    server, figures = ServerApp(), {}

    @server.main()  # type: ignore[untyped-decorator]
    def run(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < len(paths):
            time.sleep(0.05)
        figures.update(rounds(grid, case))

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0}}
    run_simulation(server, app, len(paths), backend_name=case["engine"], backend_config=resources)
    return figures


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
