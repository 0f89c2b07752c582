"""Flower's SecAgg+ on the same vectors, in the environment that `scripts/bench peers` makes. Imports nothing of ours.

    python flower.py CASE.json   ->   figures as JSON on standard output

Everything happens in one process: Flower's own workflow and its own client app with its own SecAgg+ mod, without sockets,
disks or training. Between them is one of two engines:

- "engine": Flower's Simulation Runtime with its in-memory store, as `run_simulation` starts it; only Ray, which would copy
  every array to processes of its own, is replaced by a call in a thread;
- "calls": no engine at all, the client app is called by the grid. No user of Flower gets that; it is Flower's arithmetic.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

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


class Caller:
    """Calls the client app, and counts the bytes of its answers while `counting`."""

    def __init__(self, app: ClientApp) -> None:
        self.app = app
        self.counting = False
        self.sizes: list[int] = []  # appended to by several threads

    def __call__(self, message: Message, context: Context) -> Message:
        # The mod takes entries out of the configuration that all clients share: each gets its own. Arrays are not copied.
        content = RecordDict(dict(message.content))
        for key, record in message.content.config_records.items():
            content.config_records[key] = ConfigRecord(dict(record))
        message.content = content
        answer = self.app(message, context)
        if self.counting:
            self.sizes.append(recorddict_to_proto(answer.content).ByteSize())
        return answer


class Calls(Grid):  # type: ignore[misc]
    """A grid that is only calls."""

    def __init__(self, caller: Caller, owners: int, threads: int) -> None:
        self.caller = caller
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
        answer = self.caller(message, self.contexts[message.metadata.dst_node_id])
        answer.metadata.__dict__["_message_id"] = str(uuid4())
        return answer


def backend(caller: Caller, threads: int) -> type[Backend]:
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
            return caller(message, context), context

    return Threads


def _context(node: int, config: dict[str, Any]) -> Context:
    return Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})


def rounds(grid: Grid, case: Case, caller: Caller) -> Figures:
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
    walls, cpus = [], []
    for number in range(case["rounds"] + 1):
        context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(model, keep_input=True)
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number + 1})
        caller.counting = number == 0
        wall, cpu = time.perf_counter(), time.process_time()
        workflow(grid, context)
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    found = parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, keep_input=True))[0]
    return {
        "seconds": walls,
        "cpu": cpus,
        "uploaded": sum(caller.sizes),
        "error": float(np.max(np.abs(found - np.load(case["exact"])))),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main(case: Case) -> Figures:
    """`case`: updates (.npy files), exact (one), examples, rounds, threads, shares (0: one for everybody), secure, engine."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    updates = [np.load(path) for path in case["updates"]]

    def client(context: Context) -> Any:
        number = int(context.node_config["partition-id"])
        return Prepared(updates[number], case["examples"][number]).to_client()

    app = ClientApp(client_fn=client, mods=[secaggplus_mod] if case["secure"] else [])
    caller = Caller(app)
    if not case["engine"]:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        return rounds(Calls(caller, len(updates), case["threads"]), case, caller)
    replaced: Any = ModuleType("raybackend")
    replaced.RayBackend = backend(caller, case["threads"])
    sys.modules["flwr.server.superlink.fleet.vce.backend.raybackend"] = replaced
    server, figures = ServerApp(), {}

    @server.main()  # type: ignore[untyped-decorator]
    def run(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < len(updates):
            time.sleep(0.05)
        figures.update(rounds(grid, case, caller))

    run_simulation(server, app, len(updates), backend_name="threads")
    return figures


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
