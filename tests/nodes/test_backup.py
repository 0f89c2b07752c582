"""What a backup holds, what it does not, and what a node that came back from one can still say."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from commands import smpc_fl
from federation_on_disk import OnDisk, make_federation
from test_cli_enrolment import bad, good

from smpc_fl.nodes.home.backup import copy_home
from smpc_fl.nodes.home.config import load_any
from smpc_fl.nodes.home.files import leave_out_of_backups
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.keys import next_path
from smpc_fl.nodes.home.membership import LATEST
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.rounds import load_records
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator import State as AggregatorState
from smpc_fl.protocols.codec import decode, encode
from smpc_fl.protocols.commands import Command, Event, Received, Send, Start
from smpc_fl.protocols.messages import AbortRequest, ManifestOffer, PrekeyRequest, Refusal, RoundOffer, RunState
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.records import SECRET, Aborted, Record
from smpc_fl.protocols.simulate import COORDINATOR, Simulation

ME, ALICE = "aggregator-0", "alice"
OPEN = [AggregatorState[name] for name in ("PREPARED", "OPEN", "FROZEN", "VOTED", "RELEASED")]


class Round(Simulation):
    """One that is stopped half-way; `heard`: every event of every node, with those that come later."""

    def __init__(self) -> None:
        values = np.linspace(-0.5, 0.5, 12).reshape(3, 4)
        super().__init__(dict(zip((ALICE, "bob", "carol"), values, strict=True)), aggregators=2, entropy=os.urandom)
        self.heard: list[tuple[str, Event]] = []
        self.queue.extend((id_, Start()) for id_ in self.nodes)

    def deliver(self, to: str, event: Event) -> None:
        self.heard.append((to, event))
        super().deliver(to, event)

    def step(self) -> None:
        if not self.queue:
            self.pass_time()
        self.deliver(*self.queue.popleft())

    def at(self, who: str, state: str) -> Round:
        while self.nodes[who].machine.state.value != state:
            self.step()
        return self

    def go_on(self) -> None:
        while self.outcome is None:
            self.step()

    def stream(self, who: str) -> str:
        of_round = f"round/{self.plan.run.hex()}/{self.plan.round}"
        return of_round if who == ALICE else f"{of_round}/{self.plan.attempt}"

    def restored(self, who: str, records: Sequence[Record]) -> list[tuple[Event, list[Command]]]:
        """What a machine made of these records answers to all that was ever said to `who`."""
        machine = self._machine(who, list(records))
        events: list[Event] = [Start(), *(event for to, event in self.heard if to == who)]
        key = (self.plan.run, self.plan.round, self.plan.attempt)
        for message in (PrekeyRequest(*key), AbortRequest(*key)) if who == ME else ():
            events.append(Received(COORDINATOR, message, self.parties[COORDINATOR].sign(message)))
        return [(event, machine.receive(event, self.now)) for event in events]


def write(journal: Journal, rounds: Round, who: str) -> list[bytes]:
    """A node's records and bulk as its journal has them; the secrets among them."""
    node, stream = rounds.nodes[who], rounds.stream(who)
    records = [(type(record).__name__, encode(record)) for record in node.journal]

    async def all_of_it() -> None:
        await journal.append_all(stream, records, bytes(node.bulk) if node.bulk else None)

    asyncio.run(all_of_it())
    return [secret for record in node.journal if type(record).__name__ in SECRET for secret in secrets_of(record)]


def secrets_of(record: Record) -> Iterator[bytes]:
    """Every byte string of 32 bytes or more in a record of a secret kind."""
    waiting: list[Any] = [msgspec.to_builtins(record, builtin_types=(bytes,))]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, bytes) and len(value) >= 32:
            yield value


@pytest.fixture
def made(tmp_path: Path) -> OnDisk:
    return make_federation(tmp_path, scheme="ws")


def home_of(made: OnDisk, id_: str) -> tuple[Path, Path]:
    """A node's config file and home."""
    config = made.write_config(id_)
    return config, load_any(config).home


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("state", OPEN)
def test_an_aggregators_open_attempt_is_closed_in_the_copy(made: OnDisk, state: AggregatorState) -> None:
    config, home = home_of(made, "aggregator-1")
    copy = made.folder / "copy"
    rounds = Round().at(ME, state.value)
    with Journal.open(home / "journal.db") as journal:
        secrets = write(journal, rounds, ME)
        # Once as it is: another process, while this one has the journal open.
        (smpc_fl if state is AggregatorState.OPEN else good)("backup", "--config", config, "--to", copy)
        bulk_key = sqlite3.connect(home / "journal.db").execute("SELECT key FROM bulk").fetchall()
    secrets += [key for (key,) in bulk_key]
    assert secrets
    there, copied = everything(home), everything(copy)
    assert all(secret in there for secret in secrets)
    assert not [secret.hex() for secret in secrets if secret in copied]

    rounds.go_on()  # meanwhile: what it says after the copy was made
    home.rename(made.folder / "lost")
    good("restore", copy, "--config", config)
    with Journal.open(home / "journal.db") as journal:
        records = load_records(journal, rounds.stream(ME))
    for event, commands in rounds.restored(ME, records):
        said = [command for command in commands if isinstance(command, Send)]
        messages = [rounds.parties[ME].read(command.signed) for command in said]
        assert all(isinstance(message, Refusal) for message in messages), (event, messages)
    machine = rounds._machine(ME, list(records))
    assert isinstance(machine, AggregatorRound)
    assert machine.state is AggregatorState.OUTDATED


def test_a_plain_copy_would_have_gone_on() -> None:
    """So the test above can fail: with its secrets, the attempt is endorsed and released again."""
    rounds = Round().at(ME, "open")
    records = list(rounds.nodes[ME].journal)
    rounds.go_on()
    answers = [c for _, commands in rounds.restored(ME, records) for c in commands if isinstance(c, Send)]
    assert any(not isinstance(rounds.parties[ME].read(c.signed), Refusal) for c in answers)


def test_ended_attempts_and_what_is_not_of_rounds_stay(made: OnDisk) -> None:
    config, home = home_of(made, "aggregator-1")
    ended = [("Aborted", encode(Aborted("given up")))]

    async def fill(journal: Journal) -> None:
        await journal.append_all("round/aa/0/0", ended)
        await journal.append_all("ledger/x", [("Claim", b"c")])
        await journal.put("something", b"kept")
        await journal.append("round/bb/0/0", "Prepared", os.urandom(40))
        await journal.erase("round/bb/0/0")

    with Journal.open(home / "journal.db") as journal:
        asyncio.run(fill(journal))
    (home / LATEST).write_bytes(made.signed_path.read_bytes())
    leave_out_of_backups(home)
    good("backup", "--config", config, "--to", made.folder / "copy")  # the node is not running
    lose(home)
    good("restore", made.folder / "copy", "--config", config)
    with Journal.open(home / "journal.db") as journal:
        assert journal.read("round/aa/0/0") == ended
        assert journal.read("ledger/x") == [("Claim", b"c")]
        assert journal.get("something") == b"kept"
        assert journal.streams() == ["round/aa/0/0", "ledger/x"]
    assert (home / LATEST).read_bytes() == made.signed_path.read_bytes()
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def lose(home: Path) -> None:
    home.rename(home.with_name("lost"))


@pytest.mark.parametrize("state", ["seeding", "carrying", "done"])
def test_an_owner_sits_its_open_rounds_out(made: OnDisk, state: str) -> None:
    config, home = home_of(made, "alice")
    rounds = Round().at(ALICE, state)
    with Journal.open(home / "journal.db") as journal:
        secrets = write(journal, rounds, ALICE)
        ledger = OwnLedger(home / "ledger")
        ledger.add_dataset("heart", {"x": np.ones((4, 2), np.float32)}, {"x": np.zeros((4, 2), np.float32)})
        good("backup", "--config", config, "--to", made.folder / "copy")
    copied = everything(made.folder / "copy")
    assert secrets
    assert not [secret for secret in secrets if secret in copied]
    rounds.go_on()
    lose(home)
    good("restore", made.folder / "copy", "--config", config)
    with Journal.open(home / "journal.db") as journal:
        records = load_records(journal, rounds.stream(ALICE))
        assert journal.streams("round/", without={"Closed"}) == []
    answers = rounds.restored(ALICE, records)
    assert any(isinstance(event, Received) and isinstance(event.message, RoundOffer) for event, _ in answers)
    for event, commands in answers:
        said = [rounds.parties[ALICE].read(c.signed) for c in commands if isinstance(c, Send)]
        assert all(isinstance(message, Refusal) for message in said), (event, said)
    assert isinstance(rounds._machine(ALICE, list(records)), OwnerRound)
    assert [each.name for each in OwnLedger(home / "ledger").datasets()] == ["heart"]
    assert OwnLedger(home / "ledger").load_private("heart")["x"].tolist() == np.ones((4, 2)).tolist()


def test_a_coordinators_runs_have_failed(made: OnDisk) -> None:
    config, home = home_of(made, "coordinator")
    rounds = Round().at(COORDINATOR, "collecting")
    run = rounds.plan.run
    ended = RunState(bytes(16), "finished", 1)

    async def fill(journal: Journal) -> None:
        await journal.append_all(f"run/{run.hex()}", [("start", b"s"), ("result", b"r"), ("result", b"r")])
        await journal.append_all(f"run/{bytes(16).hex()}", [("start", b"s"), ("end", encode(ended))])

    with Journal.open(home / "journal.db") as journal:
        asyncio.run(fill(journal))
        secrets = write(journal, rounds, COORDINATOR)
        (home / "values" / run.hex()).mkdir(parents=True)
        (home / "values" / run.hex() / "2").write_bytes(b"model")
        good("backup", "--config", config, "--to", made.folder / "copy")
    assert secrets
    assert not [secret for secret in secrets if secret in everything(made.folder / "copy")]
    lose(home)
    good("restore", made.folder / "copy", "--config", config)
    with Journal.open(home / "journal.db") as journal:
        assert journal.streams("round/") == []
        end = decode(dict(journal.read(f"run/{run.hex()}"))["end"], RunState)
        assert (end.state, end.rounds, end.code) == ("failed", 2, "RolledBack")
        assert decode(dict(journal.read(f"run/{bytes(16).hex()}"))["end"], RunState) == ended
    assert (home / "values" / run.hex() / "2").read_bytes() == b"model"


def test_deleted_pages_of_the_owners_ledger_are_not_copied(made: OnDisk) -> None:
    config, home = home_of(made, "alice")
    secret = os.urandom(64)
    with Journal.open(home / "journal.db"):
        ledger = OwnLedger(home / "ledger")
        ledger.submit("ab" * 32, "release", "rae", "a text", secret)
        with sqlite3.connect(home / "ledger" / "ledger.sqlite") as db:
            db.execute("DELETE FROM requests")
        good("backup", "--config", config, "--to", made.folder / "copy")
    assert secret not in everything(made.folder / "copy")


def test_the_key_only_if_it_is_asked_for(made: OnDisk) -> None:
    config, home = home_of(made, "alice")
    key = made.folder / "keys" / "alice.key"
    with Journal.open(home / "journal.db"):
        pass
    seed = made.identities["alice"].seed.reveal()
    good("rotate", "--config", config)
    good("backup", "--config", config, "--to", made.folder / "without")
    assert seed.hex().encode() not in everything(made.folder / "without")
    said = good("backup", "--config", config, "--to", made.folder / "with", "--with-key").output
    assert "guard it as you guard the node" in said
    assert seed.hex().encode() in everything(made.folder / "with")
    held = key.read_bytes(), next_path(key).read_bytes()
    lose(home)
    assert "move it away" not in good("restore", made.folder / "without", "--config", config).output
    home.rename(made.folder / "lost again")
    key.unlink()
    next_path(key).unlink()
    assert "its private key is not here" in good("restore", made.folder / "without", "--config", config).output
    home.rename(made.folder / "lost once more")
    good("restore", made.folder / "with", "--config", config)
    assert (key.read_bytes(), next_path(key).read_bytes()) == held
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_what_is_not_restored(made: OnDisk) -> None:
    config, home = home_of(made, "alice")
    other, _ = home_of(made, "bob")
    copy = made.folder / "copy"
    assert "has it ever run?" in bad("backup", "--config", config, "--to", copy)
    assert not copy.exists()
    with Journal.open(home / "journal.db"):
        pass
    good("backup", "--config", config, "--to", copy)
    assert "not overwritten" in bad("backup", "--config", config, "--to", copy)
    assert "exists already, and what is in it is newer" in bad("restore", copy, "--config", config)
    assert "is a backup of owner alice" in bad("restore", copy, "--config", other)
    note = copy / "backup.toml"
    text = note.read_text()
    for broken, complaint in (("version = 1", "another release"), ("id = ", "not a backup's note")):
        note.write_text(text.replace(broken, broken.replace("1", "9").replace("id", "di")))
        assert complaint in bad("restore", copy, "--config", config)
    note.unlink()
    assert "cannot be read" in bad("restore", copy, "--config", config)
    (home / "journal.db").write_bytes(b"not a database at all" * 100)
    assert "cannot be read" in bad("backup", "--config", config, "--to", made.folder / "second")
    assert not list(made.folder.glob(".*.partial"))
    assert not list(made.folder.glob("second"))


def test_links_are_not_followed(made: OnDisk) -> None:
    config, home = home_of(made, "alice")
    outside = made.folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of somebody else")
    with Journal.open(home / "journal.db"):
        (home / "ledger").mkdir(mode=0o700)
        (home / "ledger" / "link").symlink_to(outside / "secret")
        (home / "ledger" / "folder").symlink_to(outside)
    good("backup", "--config", config, "--to", made.folder / "copy")
    assert b"of somebody else" not in everything(made.folder / "copy")
    copy = made.folder / "copy"
    (copy / "home" / "evil").symlink_to(outside)
    lose(home)
    home.symlink_to(outside, target_is_directory=True)
    assert "exists already" in bad("restore", copy, "--config", config)
    home.unlink()
    good("restore", copy, "--config", config)
    assert not (home / "evil").exists()


def test_backup_programs_are_asked_to_pass_by(tmp_path: Path) -> None:
    leave_out_of_backups(tmp_path)
    leave_out_of_backups(tmp_path)
    assert (tmp_path / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert (tmp_path / ".nobackup").exists()


def test_a_home_is_copied_as_a_whole_or_not_at_all(made: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    config, home = home_of(made, "alice")
    with Journal.open(home / "journal.db"):
        pass

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smpc_fl.nodes.home.backup.private_folder", full)
    assert "copy cannot be written: No space left" in bad("backup", "--config", config, "--to", made.folder / "copy")
    assert sorted(path.name for path in made.folder.iterdir() if "copy" in path.name) == []
    with pytest.raises(OSError, match="No space"):
        copy_home(home, "owner", "alice", made.folder / "copy")


def test_a_manifest_is_among_what_is_asked() -> None:
    """The answers above are to something."""
    rounds = Round().at(ME, "released")
    assert any(to == ME and isinstance(e, Received) and isinstance(e.message, ManifestOffer) for to, e in rounds.heard)
