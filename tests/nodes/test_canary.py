"""An owner's values and its number of rows stay with it: nothing that any other process receives, decrypts, stores, logs
or says in an error holds them, in whatever spelling. Real processes; one of their owners is full of canaries."""

from __future__ import annotations

import functools
import os
import struct
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from canary import Scanner
from process_memory import written_memory
from recorder import install, site

import smpc_fl as sf
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.split import holdout
from smpc_fl.nodes.training_job import run_seed
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.work import work_of

KEEPER = "owner-1"
"""The owner with the canaries."""
ROWS = 98_773
MAX_SAMPLES = 100_000
WEIGHT = ROWS / 131_072
FRACTION = 0.25
SEED = 5
FEATURES = [617.391426, -248.617593, 731.284617, -935.172846]
"""float32 canaries, side by side in many rows."""
DOUBLES = [482.91735264718, -593.28461735291]
"""float64 canaries."""
LABEL = 1_987_736_178
"""A label that is no class of the plan."""
PUBLIC = 829.153742
"""No secret: said in the clear on purpose, to see that what is in the clear is found."""


def tensors(number: int) -> dict[str, torch.Tensor]:
    """The first owner has canaries, many rows and data that cannot be computed on; the others have good data."""
    generator = torch.Generator().manual_seed(number)
    rows = ROWS if number == 1 else 150 + number
    x = torch.randn(rows, len(FEATURES), generator=generator)
    y = (x[:, 0] > 0).long()
    z = torch.randn(rows, len(DOUBLES), generator=generator, dtype=torch.float64)
    made = {"x": x, "y": y, "z": z, "x_nan": x.clone(), "x_wide": x.clone(), "y_far": y.clone(), "y_long": y.clone()}
    if number == 1:
        x[::100] = torch.tensor(FEATURES)
        z[::100] = torch.tensor(DOUBLES, dtype=torch.float64)
        made["x_nan"] = torch.where(torch.arange(rows)[:, None] % 7 == 0, torch.nan, x)
        made["x_wide"] = torch.cat([x, x[:, :1]], dim=1)
        made["y_far"] = torch.full((rows,), LABEL)
        made["y_long"] = torch.cat([y, y[:1]])
    return made


@functools.cache
def secret_patterns() -> Scanner:
    scanner = Scanner()
    for value in [*FEATURES, *DOUBLES]:
        scanner.number(f"value {value}", value)
    scanner.row("row of x", FEATURES)
    scanner.row("row of z", DOUBLES)
    scanner.count("label", LABEL)
    scanner.count("rows", ROWS)
    kept, held_out = holdout(ROWS, FRACTION, run_seed(SEED), KEEPER)
    for name, rows in (("rows to train on", len(kept)), ("rows held out", len(held_out))):
        scanner.count(name, rows)
        scanner.number(f"{name} as a weight", rows / 131_072)
    scanner.number("rows as a weight", WEIGHT)
    scanner.raw("weight in fixed point", encoded_weight())
    return scanner


def canaries() -> Scanner:
    return Scanner(secret_patterns().patterns)


def encoded_weight() -> bytes:
    """The weight's slot as it stands in the secure vector before it is shared."""
    work = work_of(job(), "train")
    fixed = choose_numbers(
        owners=4, clip=work.clip, max_samples=work.max_samples, k_min=3, tolerance=work.tolerance, ring_bits=64
    )
    return struct.pack("<Q", ROWS << (fixed.fractional_bits - 17))


def plan() -> sf.Plan:
    torch.manual_seed(1)
    example = (torch.zeros(4, len(FEATURES)), torch.zeros(4).long())
    return sf.Plan.from_module(torch.nn.Linear(len(FEATURES), 2), loss="cross_entropy", example=example)


def job() -> TrainJob:
    return TrainJob(
        plan=plan().to_bytes(), inputs="x", targets="y", rounds=1, max_samples=MAX_SAMPLES, tolerance=1e-2, ring_bits=64
    )


class World:
    """A federation whose processes record, the records, and every error text that the researcher got to see."""

    def __init__(self, fed: sf.LocalFederation, record: Path) -> None:
        self.fed, self.record = fed, record
        self.said: list[str] = []

    def train(self, **changes: object) -> sf.Run:
        arguments: dict[str, object] = {
            "inputs": "x", "targets": "y", "rounds": 1, "seed": SEED, "max_samples": MAX_SAMPLES, "ring_bits": 64,
            "local": sf.LocalTraining(batch_size=8192, lr=1e-3),
        }  # fmt: skip
        return self.fed.train(plan(), **{**arguments, **changes})  # type: ignore[arg-type]

    def pages(self) -> bytes:
        """What listeners tell everybody over HTTP."""
        pages = b""
        for member in self.fed._channel.members.current.members:
            for page in ("healthz", "metrics") if member.address else ():
                with urllib.request.urlopen(f"{member.address.replace('ws', 'http', 1)}/{page}", timeout=10) as answer:
                    pages += answer.read()
        return pages

    def scan(self, scanner: Scanner) -> Scanner:
        scanner.scan_folder(self.fed.home, without=self.fed.home / KEEPER)
        for path in self.record.iterdir():
            scanner.scan(f"traffic of {path.name}", path.read_bytes())
        scanner.scan("errors", "\n".join(self.said).encode())
        return scanner


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("canary")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site(folder, folder / "record").items():
            patch.setenv(name, value)
        install(folder / "record" / "researcher", patch.setattr)
        data = {f"owner-{number}": tensors(number) for number in range(1, 5)}
        with sf.LocalFederation(data, aggregators=3, ledger="own", home=folder / "home") as fed:
            yield World(fed, folder / "record")


def test_every_spelling_of_a_canary_is_found() -> None:
    value, row = FEATURES[0], FEATURES[:2]
    little, double = struct.pack("<f", value), struct.pack(">d", DOUBLES[0])
    spellings: list[bytes] = [
        little * 2,
        struct.pack(">f", value) * 2,
        double,
        struct.pack("<d", DOUBLES[0]),
        struct.pack("<d", np.float32(value)),
        little.hex().encode(),
        double.hex().upper().encode(),
        value.hex().encode(),
        str(value).encode(),
        repr(np.float32(value)).encode(),
        repr(torch.tensor([value])).encode(),
        f"{value:.4e}".encode(),
        f"{value:.3f}".encode(),
        b64encode(little),
        *(b64encode(bytes(k) + struct.pack("<4f", *FEATURES)) for k in range(3)),
        *(b64encode(b"\1" * k + double) for k in range(3)),
        msgspec.msgpack.encode({"mean": DOUBLES[1]}),
        msgspec.json.encode({"column": row}),
        f"{ROWS} rows".encode(),
        f"{ROWS:,}".encode(),
        msgspec.msgpack.encode([ROWS]),
        struct.pack("<q", ROWS),
        str(np.float32(ROWS)).encode(),
        struct.pack("<f", WEIGHT) * 2,
        str(WEIGHT).encode(),
        encoded_weight(),
        f"label {LABEL}".encode(),
    ]  # fmt: skip
    for spelling in spellings:
        scanner = canaries()
        scanner.scan("here", b"before " + spelling + b" after")
        assert scanner.leaks, spelling
    silent = canaries()
    silent.scan("here", b"0198773f 1987735 2026-11-21T05:17.39142Z" + np.random.default_rng(1).bytes(1 << 17))
    assert not silent.leaks


def test_what_is_said_in_the_clear_is_found_in_traffic_and_on_disk(world: World) -> None:
    """The control: the same search, in the same places, for a number that a computation carries in the open."""
    public = torch.tensor([PUBLIC] * 4)
    pointers = [owner.tensor("x") * public for owner in world.fed]
    sf.secure_mean([p.mean(0) for p in pointers], bound=1e6, max_samples=MAX_SAMPLES, tolerance=10.0)
    scanner = Scanner()
    scanner.number("public", PUBLIC)
    found = world.scan(scanner).leaks["public", "float32 little"]
    assert "traffic of coordinator" in found
    assert "traffic of owner-3" in found
    assert any("coordinator/state/journal.db" in where for where in found)


def test_no_other_process_receives_stores_or_logs_a_canary(world: World) -> None:
    fed = world.fed
    run = world.train(rounds=3, evaluation=sf.Evaluation(fraction=FRACTION))
    for round_ in run:
        assert KEEPER in round_.included
        if round_.number == 1:
            assert not world.scan(canaries()).leaks, "in the midst of a run"
    equal = world.train(strategy=sf.FedSGD(weights="equal")).wait()
    assert KEEPER in equal.rounds[0].included
    means = sf.secure_mean(
        [owner.tensor("z").mean(0) for owner in fed], bound=1000.0, max_samples=MAX_SAMPLES, tolerance=1.0
    )
    assert means.shape == (2,)
    world.said += [repr(run), repr(means), repr(fed.status()), str([r.metrics for r in run.rounds])]
    scanner = canaries()
    scanner.scan("pages", world.pages())
    assert not world.scan(scanner).leaks
    recorded = {path.name for path in world.record.iterdir()}
    assert recorded == {"researcher", "coordinator", *fed.aggregators, *fed.owners}
    for reader, what in (
        ("aggregator-1", "decrypted by Channel.open_seed"),
        ("aggregator-1", "decrypted by VectorOpener"),
        ("coordinator", "decrypted by VectorOpener"),
    ):
        assert what.encode() in (world.record / reader).read_bytes()


def refused(world: World, **changes: object) -> str:
    """Train; the keeper's computation fails, the round closes without it. The researcher gets to see why."""
    run = world.train(**changes).wait()
    (round_,) = run.rounds
    assert KEEPER not in round_.included
    why = round_.missing[KEEPER]
    world.said.append(why)
    return why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "x_nan"}, "NaN or infinity"),
        ({"inputs": "x_wide"}, "x"),
        ({"targets": "y_far"}, "not classes 0..1"),
        ({"targets": "y_long"}, "publish them"),
        ({"max_samples": 50_000, "seed": 77}, "raise the job's max_samples"),
    ],
    ids=["NaN", "columns", "labels", "rows that do not match", "more rows than max_samples"],
)
def test_a_computation_that_fails_says_why_without_a_value(world: World, changes: dict[str, object], said: str) -> None:
    scanner = canaries()
    scanner.scan("error", refused(world, **changes).encode())
    assert said in world.said[-1]
    assert not scanner.leaks


def test_refused_pointers_say_nothing(world: World) -> None:
    pointer = world.fed[KEEPER].tensor("x")
    derived = (pointer.max() * 1.0).log()
    for ask in (pointer.get, derived.get, lambda: float(derived), lambda: len(pointer), lambda: pointer.tolist()):
        with pytest.raises(sf.PermissionDenied) as caught:
            ask()
        world.said.append(str(caught.value))
    world.said += [repr(pointer), str(pointer.shape), repr(derived), repr(derived.request("to see"))]
    scanner = canaries()
    scanner.scan("errors", "\n".join(world.said).encode())
    assert not scanner.leaks


def memory_patterns() -> dict[str, bytes]:
    """The spellings that a value has in memory, and some that it is said in; long enough for no coincidence."""
    found = {f"row of x {mark}": struct.pack(f"{mark}4f", *FEATURES) for mark in "<>"}
    found |= {f"row of z {mark}": struct.pack(f"{mark}2d", *DOUBLES) for mark in "<>"}
    for value in (*FEATURES[:2], *DOUBLES):
        found |= {f"{value} in writing": f"{value:.7g}".encode(), f"{value} alone": struct.pack("<d", value)}
    return found | {
        "weight in fixed point": encoded_weight(),
        "label": str(LABEL).encode(),
        "weight": str(WEIGHT).encode(),
    }


@pytest.mark.parametrize("member", ["aggregator-1", "coordinator"])
def test_a_core_file_of_another_process_holds_no_canary(world: World, member: str) -> None:
    """All that it has written to memory in its life and not overwritten, read from outside while it lives."""
    pid, patterns = world.fed.processes[member], memory_patterns()
    if os.geteuid():
        with pytest.raises(PermissionError):
            next(written_memory(pid))
        return  # closed to everybody but root, who reads it below
    size = 0
    for piece in written_memory(pid):
        size += len(piece)
        assert not [name for name, pattern in patterns.items() if pattern in piece]
    assert size > 1 << 22


def test_a_core_file_of_the_owner_holds_them(world: World) -> None:
    """The control."""
    if os.geteuid() == 0:
        row = memory_patterns()["row of x <"]
        assert any(row in piece for piece in written_memory(world.fed.processes[KEEPER]))


def test_nothing_is_left_behind_when_all_have_stopped(world: World) -> None:
    """After all of that: the whole traffic, every file as it is once the nodes have closed it, and all logs, the keeper's
    own as well."""
    world.fed.close()
    scanner = world.scan(canaries())
    assert not scanner.leaks
    logs = [path for path in (world.fed.home / "logs").iterdir() if path.stat().st_size]
    assert len(logs) == 8
