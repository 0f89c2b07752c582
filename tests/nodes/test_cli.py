from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from federation_on_disk import OnDisk, make_federation

from smpc_fl.errors import InternalError, RunFailed, SmpcError
from smpc_fl.nodes.cli import main as cli
from smpc_fl.nodes.cli.main import COMMANDS, main
from smpc_fl.nodes.cli.up import Child
from smpc_fl.nodes.home.config import CONFIGS, OwnerConfig, load_any

HEAVY = ("torch", "numpy", "syft", "websockets", "msgspec", "rich", "nacl", "cryptography")


def call(*args: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input, catch_exceptions=False)


@pytest.fixture
def made(tmp_path: Path) -> OnDisk:
    return make_federation(tmp_path)


class Recorder(types.ModuleType):
    """Stands in for a module of a node: notes how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str, *attributes: str) -> None:
        super().__init__(module)
        self.calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
        for attribute in attributes:
            setattr(self, attribute, lambda *args, **options: self.calls.append((args, options)))
        monkeypatch.setitem(sys.modules, module, self)


def test_help_teaches_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from smpc_fl.nodes.cli.main import main; main(['--help'], standalone_mode=False); "
        f"print('HEAVY:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY: []" in ran.stdout
    for name, entry in COMMANDS.items():
        assert f"  {name} " in ran.stdout
        assert entry.help in ran.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_no_torch(name: str) -> None:
    code = f"import sys; from smpc_fl.nodes.cli.main import main; main([{name!r}, '--help'], standalone_mode=False); "
    code += "assert not {'torch', 'syft'} & set(sys.modules)"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Usage: ")


def test_version_and_the_module_itself() -> None:
    assert call("--version").output.startswith("smpc-fl 0.")
    ran = subprocess.run([sys.executable, "-m", "smpc_fl.nodes", "-h"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("Usage: smpc-fl ")


def test_unknown_commands() -> None:
    result = call("nonsense")
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output


def fail_with(monkeypatch: pytest.MonkeyPatch, error: SmpcError) -> None:
    @click.command()
    def broken() -> None:
        raise error

    module = types.ModuleType("broken_command")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(COMMANDS, "broken", cli.Entry("Try it", "broken_command", "broken", "…"))


def test_errors_are_one_readable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, RunFailed("nobody is there", peer="bob"))
    result = call("broken")
    assert result.exit_code == 2
    assert result.output == "smpc-fl: RunFailed: nobody is there [bob]\n"
    with pytest.raises(RunFailed):
        call("--traceback", "broken")


def test_our_own_bugs_ask_to_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, InternalError("oops"))
    assert "please report it" in call("broken").output


@pytest.mark.parametrize(
    ("command", "id", "module"),
    [
        ("owner", "alice", "smpc_fl.nodes.owner"),
        ("aggregator", "aggregator-1", "smpc_fl.nodes.aggregator"),
        ("coordinator", "coordinator", "smpc_fl.nodes.coordinator"),
    ],
)
def test_nodes_are_started_with_their_config(
    made: OnDisk, monkeypatch: pytest.MonkeyPatch, command: str, id: str, module: str
) -> None:
    node = Recorder(monkeypatch, module, "main")
    file = made.write_config(id)
    assert call(command, "--config", file).exit_code == 0
    assert call(command, "--config", file, "--listen-fd", 7).exit_code == 0
    assert call(command, "--config", file, "--with-parent").exit_code == 0
    assert [args for args, _ in node.calls] == 3 * [(load_any(file),)]
    assert [options for _, options in node.calls] == [
        {"listen_fd": None, "with_parent": False},
        {"listen_fd": 7, "with_parent": False},
        {"listen_fd": None, "with_parent": True},
    ]
    checked = call(command, "--config", file, "--check")
    assert checked.exit_code == 0, checked.output
    assert "WRONG" not in checked.output
    assert len(node.calls) == 3
    wrong = call(command, "--config", made.write_config("researcher"))
    assert wrong.exit_code == 2
    assert '`role` is "researcher"' in wrong.output
    assert "--listen-fd" not in call(command, "--help").output


def test_a_check_that_fails(made: OnDisk) -> None:
    file = made.write_config("alice", key=made.folder / "none.key")
    result = call("owner", "--config", file, "--check")
    assert result.exit_code == 2
    assert "WRONG  " in result.output
    assert "smpc-fl: ConfigInvalid: alice: 1 check failed" in result.output


def test_run_status_and_demo(made: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made.write_config("researcher")
    client = Recorder(monkeypatch, "smpc_fl.nodes.client", "show_status")
    assert call("status", "--config", file).exit_code == 0
    assert client.calls == [((load_any(file),), {})]
    assert "WRONG" not in call("status", "--config", file, "--check").output

    jobs = Recorder(monkeypatch, "smpc_fl.nodes.cli.job_file", "run_job")
    assert call("run", "job.toml", "--config", file, "--output", "out").exit_code == 0
    assert call("run", "job.toml", "--check").exit_code == 0
    assert jobs.calls == [
        ((Path("job.toml"),), {"config": file, "output": Path("out"), "check": False}),
        ((Path("job.toml"),), {"config": Path("federation.toml"), "output": None, "check": True}),
    ]

    shown = Recorder(monkeypatch, "smpc_fl.nodes.demo.main", "main")
    assert call("demo", "--splits", 1).exit_code == 0
    assert shown.calls == [((), {"output": Path("demo-output"), "splits": 1, "rounds": 8, "aggregators": 3})]


def test_up_starts_what_the_file_lists(made: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []
    monkeypatch.setattr("smpc_fl.nodes.cli.up.run_all", lambda children, show: started.extend(children))
    nodes = (made.write_config("alice"), made.write_config("coordinator"))
    file = made.write_config("researcher", nodes=nodes)
    assert call("up", file).exit_code == 0
    assert started == [Child("alice", "owner", nodes[0]), Child("coordinator", "coordinator", nodes[1])]
    assert call("up", file, "--check").exit_code == 0


def test_up_refuses_what_it_cannot_start(made: OnDisk) -> None:
    none = call("up", made.write_config("researcher"))
    assert none.exit_code == 2
    assert "nodes: list the configs to run" in none.output
    itself = made.write_config("researcher", nodes=(made.folder / "researcher.toml",))
    assert "is a researcher's config" in call("up", itself).output
    nodes = (made.write_config("alice", key=made.folder / "none.key"), made.write_config("bob", id="zoe"))
    wrong = call("up", made.write_config("researcher", nodes=nodes), "--check")
    assert wrong.exit_code == 2
    assert "2 checks failed" in wrong.output


@pytest.mark.parametrize("role", CONFIGS)
def test_init_writes_a_config_that_only_wants_its_key(
    made: OnDisk, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("init", role)
    assert result.exit_code == 0, result.output
    file = tmp_path / {"owner": "alice.toml", "aggregator": "aggregator-1.toml", "researcher": "federation.toml"}.get(
        role, f"{role}.toml"
    )
    text = file.read_text()
    assert text.startswith("# ")
    assert "Check this file with: smpc-fl" in text
    unfinished = call("owner" if role == "owner" else "status", "--config", file)
    assert unfinished.exit_code == 2
    file.write_text(text.replace("64 hex digits: the content of federation.pub", made.federation.public.hex))
    assert load_any(file).federation == made.federation.public
    again = call("init", role)
    assert again.exit_code == 2
    assert "not overwritten" in again.output


def test_init_with_everything_given_needs_no_editing(made: OnDisk) -> None:
    common: list[object] = ["--federation-key", made.folder / "office" / "federation.pub", "--tls", made.folder / "tls"]
    common += ["--roster", made.signed_path]
    for role, id in (("owner", "alice"), ("coordinator", "coordinator"), ("aggregator", "aggregator-2")):
        given: list[object] = [
            "--id",
            id,
            "--key",
            made.folder / "keys" / f"{id}.key",
            "--home",
            made.folder / "h" / id,
        ]
        if role == "owner":
            given += ["--aggregator", "aggregator-1", "--aggregator", "aggregator-2", "--ledger", "own"]
        else:
            given += ["--listen", "0.0.0.0:18443"]
        file = made.folder / "configs" / f"{id}.toml"
        made_it = call("init", role, file, *common, *given)
        assert made_it.exit_code == 0, made_it.output
        checked = call(role, "--config", file, "--check")
        assert checked.exit_code == 0, checked.output
    alice = load_any(made.folder / "configs" / "alice.toml")
    assert isinstance(alice, OwnerConfig)
    assert alice.ledger == "own"
    assert alice.home == made.folder / "h" / "alice"
    researcher = made.folder / "federation.toml"
    nodes = [made.folder / "configs" / f"{id}.toml" for id in ("alice", "coordinator")]
    key = made.folder / "keys" / "researcher.key"
    done = call("init", "researcher", researcher, *common, "--key", key, *(x for n in nodes for x in ("--node", n)))
    assert done.exit_code == 0, done.output
    checked = call("up", researcher, "--check")
    assert checked.exit_code == 0, checked.output


def test_init_finds_relative_paths(made: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    done = call(
        "init", "owner", "deep/alice.toml", "--key", "keys/alice.key", "--roster", "roster.signed", "--plaintext"
    )
    assert done.exit_code == 0
    text = (made.folder / "deep" / "alice.toml").read_text()
    assert 'key = "../keys/alice.key"' in text
    assert 'roster = "../roster.signed"' in text
    assert 'plaintext = "I accept' in text


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("owner", "--listen", "127.0.0.1:1"), "only dials out"),
        (("researcher", "--aggregator", "x"), "owners who pin"),
        (("owner", "--node", "x.toml"), "takes the researcher's file"),
        (("owner", "--federation-key", "xyz"), "64 hex digits"),
    ],
)
def test_init_refuses_options_of_other_roles(
    tmp_path: Path, args: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("init", *args)
    assert result.exit_code == 2
    assert complaint in result.output
    assert not list(tmp_path.iterdir())
