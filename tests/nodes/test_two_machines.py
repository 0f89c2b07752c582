"""docs/deploy.md, typed as it stands: three clinics over wss://, a fourth that joins, a key that is stolen.

The commands are the document's own; only addresses are others here, so that two runs of this test do not meet."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import DIGEST, smpc_fl, until
from documents import ROOT, Block, environment, run_block, sections

import smpc_fl as sf

DOCUMENT = sections(ROOT / "docs" / "deploy.md")
LISTENERS = ("127.0.1.1:8443", "127.0.1.2:8443", "127.0.1.3:8443", "127.0.1.3:8444")
PORTS = (":8441", ":8442", ":8443")
CLINICS = ("north", "south", "east")


def addresses() -> dict[str, str]:
    """What to write for the document's addresses: other loopback addresses, with ports that are free; for the machine of
    its own, other ports."""
    found = {}
    for listener in LISTENERS:
        host = f"127.0.0.{int(listener.partition(':')[0].rpartition('.')[2]) + 1}"
        with socket.create_server((host, 0)) as sock:
            found[listener] = f"{host}:{sock.getsockname()[1]}"
    found |= {listener.partition(":")[0]: there.partition(":")[0] for listener, there in found.items()}
    for port in PORTS:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            found[port] = f":{sock.getsockname()[1]}"
    return found


@dataclass
class Machines:
    """Folder, processes and blocks of the walk-through. `next` runs the document's next block, whatever it is."""

    folder: Path
    replaced: dict[str, str]
    blocks: list[Block]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        for address, there in self.replaced.items():
            text = text.replace(address, there)
        return text

    def next(self, expected: str, *, place: str = "north", digest: str = "DIGEST", keep: bool = False) -> str:
        """Runs the next block, which must contain `expected`; for another clinic, or about a request, where it says so.

        Returns what it printed. With `keep`, the block stays the next one."""
        block = self.blocks[0] if keep else self.blocks.pop(0)
        assert expected in block.text, f"{expected} was to come, not\n{block.text}"
        text = self.here(block.text.replace("DIGEST", digest))
        for written in ("north/", "/north."):
            text = text.replace(written, written.replace("north", place))
        if not block.going_on:
            return run_block(Block("bash", text, going_on=False), self.folder)
        for line in text.strip().splitlines():
            with self.log(line).open("wb") as log:
                self.running[line] = subprocess.Popen(
                    ["bash", "-c", f"exec {line}"],
                    cwd=self.folder,
                    env=environment(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        return ""

    def log(self, line: str) -> Path:
        return self.folder / (re.sub(r"\W+", "-", line) + ".log")

    def printed(self, words: str) -> str:
        """What the command that contains `words` and goes on in the background has printed."""
        (line,) = [line for line in self.running if words in line]
        return self.log(line).read_text()

    def wait_for(self, words: str, printed: str) -> None:
        until(lambda: printed in self.printed(words), f"{words} prints {printed!r}")

    def ended(self, words: str) -> int:
        (line,) = [line for line in self.running if words in line]
        return self.running.pop(line).wait(120)

    def decide(self, digest: str, *places: str) -> None:
        """`list`, `show` and `approve` on these owners' machines, as the document has it for north."""
        for place in places:
            assert digest in DIGEST.findall(self.next("requests list", place=place, keep=True))
        self.blocks.pop(0)
        for place in places:
            shows = "requests show" in self.blocks[0].text
            shown = self.next("requests approve", place=place, digest=digest, keep=True)
            assert ("Train a model on x and y" in shown) == shows
            assert f"approved {digest} (train, researcher)" in shown
        self.blocks.pop(0)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    made = Machines(tmp_path, addresses(), [])
    examples = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", examples)
    for path in [*examples.glob("three_machines/*/*.toml"), examples / "one_machine" / "set-up"]:
        path.write_text(made.here(path.read_text()))
    monkeypatch.setenv("EXAMPLES", str(examples))
    try:
        yield made
        for process in made.running.values():
            process.send_signal(signal.SIGINT)
        codes = {line: process.wait(30) for line, process in made.running.items()}
        assert set(codes.values()) == {0}, codes
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only 127.0.0.1 is a loopback address")
@pytest.mark.timeout(400)
def test_the_walk_through(machines: Machines) -> None:
    machines.blocks = [*DOCUMENT["Walk-through"], *DOCUMENT["Members come and go"]]
    for block in ("cp -r", "keygen north/north.key", "roster new", "smpc-fl certificate"):
        machines.next(block)
    checked = machines.next("--check")
    assert "WRONG" not in checked
    assert "wss://" in checked
    assert "north is in the roster as owner with this key" in checked
    assert "x float32[rows, 4], y int64[rows]" in machines.next("datasets add")
    machines.next("smpc-fl coordinator")
    until(lambda: all_there(machines.next("smpc-fl status", keep=True), 7), "all are connected", 120)
    machines.blocks.pop(0)

    machines.next("smpc-fl run")
    machines.wait_for("smpc-fl run", "waits for approval by east, north, south")
    (digest,) = set(DIGEST.findall(machines.printed("smpc-fl run")))
    machines.decide(digest, *CLINICS)
    assert machines.ended("smpc-fl run") == 0, machines.printed("smpc-fl run")
    lines = [json.loads(line) for line in (machines.folder / "result" / "1-train.jsonl").read_text().splitlines()]
    assert [line["included"] for line in lines] == [sorted(CLINICS)] * 5
    assert lines[-1]["metrics"]["val_auc"] > 0.5

    a_fourth_clinic_joins(machines)
    with sf.connect(machines.folder / "east" / "federation.toml") as fed:
        until(lambda: fed.owners == ["east", "north", "south", "west"], "the second version has come round")
        a_key_is_replaced(machines, fed)
        a_stolen_key_is_revoked(machines, fed)
    machines.blocks += DOCUMENT["Restarts and backups"]
    assert "north as of" in machines.next("smpc-fl backup")
    assert not machines.blocks
    a_connection_begins_with_the_newest_roster(machines.folder)
    a_revoked_researcher_hears_why_at_once(machines.folder)


def all_there(status: str, count: int) -> bool:
    return len(re.findall(r"(owner|aggregator|coordinator)\W+yes\b", status)) == count


def a_fourth_clinic_joins(machines: Machines) -> None:
    for block in ("roster invite", "smpc-fl enrol", "roster enrol"):
        machines.next(block)
    refused = smpc_fl(
        "roster", "enrol", *(machines.folder / name for name in ("office/roster.toml", "west/west.request")), "--yes",
        exit_code=2,
    )  # fmt: skip
    assert "serves once" in refused
    checked = machines.next("init owner west/owner.toml")
    assert "WRONG" not in checked
    assert "4 owners in the roster" in checked
    accepted = machines.next("roster accept")
    assert accepted.count("+ west") == 3
    assert accepted.count("version 2 accepted") == 3
    machines.next("smpc-fl owner --config west/owner.toml")


def a_key_is_replaced(machines: Machines, fed: sf.Federation) -> None:
    for block in ("smpc-fl rotate", "roster rotate"):
        said = machines.next(block)
    assert "new key: south, signed by the one before" in said
    machines.wait_for("west/owner.toml", '"event": "key replaced"')
    until(lambda: fed.status().roster_version == 3, "the new key has come round")


def a_stolen_key_is_revoked(machines: Machines, fed: sf.Federation) -> None:
    fed.wait_for_owners()
    net = runpy.run_path(str(ROOT / "examples" / "own_data" / "model.py"))["make"]()
    plan = sf.Plan.from_module(net, example=(torch.zeros(4, 4), torch.zeros(4).long()))
    run = fed.train(plan, inputs="x", targets="y", rounds=1000, max_samples=1000)
    try:
        until(lambda: "approval by east, north, south, west" in run.status, "all four are asked")
    except AssertionError:
        said = [machines.printed(words)[-3000:] for words in ("smpc-fl coordinator", "west/owner.toml")]
        pytest.fail("\n".join([f"status: {run.status}", str(fed.status()), *said]))
    machines.blocks[:0] = [b for b in DOCUMENT["Walk-through"] if "smpc-fl requests" in b.text]
    machines.decide(run.digest[:16], *CLINICS, "west")
    without = 0
    for round_ in run:
        if round_.number == 1:
            assert len(round_.included) == 4
            machines.next("roster revoke")
        if "north" not in round_.included:
            without += 1
            assert round_.included == ["east", "south", "west"]
            assert "north was revoked (laptop stolen)" in round_.missing["north"]
        if without == 2:
            run.cancel()
            break
    with pytest.raises(sf.RunFailed, match="cancelled"):
        run.wait()
    until(lambda: fed.status().roster_version == 4, "the new roster has come round")
    machines.wait_for("north/owner.toml", "RevokedKey")
    assert "coordinator refused north: the key of north was revoked (laptop stolen)" in machines.printed(
        "north/owner.toml"
    )
    machines.wait_for("south/aggregator.toml", "north was revoked (laptop stolen)")


def a_connection_begins_with_the_newest_roster(folder: Path) -> None:
    (folder / "east" / "researcher-home" / "roster.latest").unlink()
    with sf.connect(folder / "east" / "federation.toml") as fed:
        assert fed.owners == ["east", "south", "west"]


def a_revoked_researcher_hears_why_at_once(folder: Path) -> None:
    draft, signed = folder / "office" / "roster.toml", folder / "office" / "roster.signed"
    smpc_fl("roster", "revoke", draft, "--id", "researcher", "--reason", "contract ended")
    smpc_fl("roster", "sign", draft, "--key", folder / "office" / "federation.key")
    smpc_fl("roster", "accept", signed, "--config", folder / "east" / "coordinator.toml", "--yes")

    def status() -> str:
        config = folder / "east" / "federation.toml"
        return smpc_fl("status", "--config", config, exit_code=None)

    until(lambda: "contract ended" in status(), "the coordinator has taken it up")
    assert status().startswith("smpc-fl: RevokedKey: coordinator refused researcher: the key of researcher was revoked")


@pytest.mark.slow
def test_all_on_one_machine(machines: Machines) -> None:
    machines.blocks = list(DOCUMENT["All on one machine"])
    assert "WRONG" not in machines.next("one_machine/set-up")
    with pytest.raises(
        sf.Unavailable, match=r"the coordinator .* does not answer \(.*cannot be reached.*is it running"
    ):
        sf.connect(machines.folder / "one_machine" / "federation.toml", timeout=0.5)
    machines.next("smpc-fl up one_machine/federation.toml")
    machines.next("smpc-fl run")
    machines.wait_for("smpc-fl run", "waits for approval by east, north, south")
    (digest,) = set(DIGEST.findall(machines.printed("smpc-fl run")))
    machines.decide(digest, *CLINICS)
    assert machines.ended("smpc-fl run") == 0, machines.printed("smpc-fl run")
    assert (machines.folder / "one_machine" / "result" / "1-train.safetensors").exists()
    assert not machines.blocks
    assert "6 nodes, supervised by" in machines.printed("smpc-fl up")
