"""`smpc-fl datasets` and `smpc-fl requests`, as the owner types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.ledger import syft
from smpc_fl.nodes.ledger.base import Ledger, open_ledger

CONFIG = """
role = "owner"
id = "alice"
home = "alice"
key = "alice.key"
roster = "roster.signed"
federation_key = "{key}"
ledger = "own"
[policy]
aggregators = ["one", "two"]
"""
TABLE = "age,sex,sick\n63,1,0\n67,0,1\n41,1,1\n"
ONE, TWO = "ab" * 32, "cd" * 32


class Owner:
    """The owner's folder, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "owner.toml").write_text(CONFIG.format(key="12" * 32))
        (folder / "heart.csv").write_text(TABLE)

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(main, list(words))

    def says(self, *words: str) -> str:
        result = self(*words)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def fails(self, *words: str) -> str:
        result = self(*words)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return result.stderr

    @property
    def ledger(self) -> Ledger:
        """As the node has it open."""
        return open_ledger("own", self.folder / "alice", "alice")


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owner:
    monkeypatch.chdir(tmp_path)
    return Owner(tmp_path)


ADD = (
    "datasets",
    "add",
    "heart",
    "--private",
    "heart.csv",
    "--mock",
    "auto",
    "--inputs",
    "age, sex",
    "--target",
    "sick",
)


def test_publish_list_remove(owner: Owner) -> None:
    assert "no datasets yet" in owner.says("datasets", "list")
    said = owner.says(*ADD, "--tag", "#heart", "--tag", "#uci", "--summary", "four [bold]hospitals")
    assert "published heart: x float32[rows, 2], y int64[rows]" in said
    listed = owner.says("datasets", "list")
    for part in ("heart", "x float32[rows, 2]", "#heart #uci", "four [bold]hospitals"):
        assert part in listed
    assert owner.ledger.load_private("heart")["x"].tolist() == [[63, 1], [67, 0], [41, 1]]
    assert "removed heart" in owner.says("datasets", "remove", "heart")
    assert owner.ledger.datasets() == []


def test_a_running_node_sees_what_is_added(owner: Owner) -> None:
    node = owner.ledger
    before = node.changes()
    owner.says(*ADD, "--publish-rows")
    assert node.changes() != before
    assert [(d.name, d.rows) for d in node.datasets()] == [("heart", 3)]
    assert "x float32[3, 2]" in owner.says("datasets", "list")


def test_mock_files_and_target_types(owner: Owner) -> None:
    (owner.folder / "mock.csv").write_text("age,sex,sick\n1,0,1\n")
    said = owner.says(*ADD[:6], "mock.csv", *ADD[7:], "--target-type", "number")
    assert "y float32[rows]" in said
    assert "mock part from mock.csv" in said
    np.testing.assert_array_equal(owner.ledger.load_mock("heart")["y"], [1])
    owner.says("datasets", "add", "lungs", *ADD[3:], "--classes", "5")
    assert set(owner.ledger.load_mock("lungs")["y"]) == {0, 1, 2, 3, 4}


def test_what_is_wrong_with_a_file_is_said_in_a_line(owner: Owner) -> None:
    (owner.folder / "heart.csv").write_text("age,sex,sick\n63,female,0\n")
    said = owner.fails(*ADD)
    assert said.startswith("smpc-fl: DatasetInvalid: heart.csv, line 2, column 'sex': is not a number")
    assert "female" not in said
    (owner.folder / "heart.csv").write_text(TABLE)
    owner.says(*ADD)
    assert "already" in owner.fails(*ADD)
    assert "no data set 'lungs'" in owner.fails("datasets", "remove", "lungs")


def test_check_changes_nothing(owner: Owner) -> None:
    said = owner.says(*ADD, "--check")
    assert "heart.csv: ok, x float32[rows, 2], y int64[rows]" in said
    (owner.folder / "mock.csv").write_text("age,sex\n1,0\n")
    bad = owner(*ADD[:6], "mock.csv", *ADD[7:], "--check")
    assert (bad.exit_code, bad.stderr) == (2, "smpc-fl: DatasetInvalid: mock.csv: has no 'sick', only age, sex\n")
    for words in (
        ("datasets", "list"),
        ("datasets", "remove", "heart"),
        ("requests", "list"),
        ("requests", "show", "ab"),
        ("requests", "approve", "ab"),
        ("requests", "reject", "ab"),
    ):
        assert "owner.toml: ok" in owner.says(*words, "--check")
    assert not (owner.folder / "alice").exists()


def test_configs_are_looked_for_and_explained(owner: Owner) -> None:
    (owner.folder / "owner.toml").rename(owner.folder / "alice.toml")
    assert "ConfigInvalid: owner.toml: cannot be read" in owner.fails("requests", "list")
    assert "no requests waiting" in owner.says("requests", "list", "--config", "alice.toml")


def ask(owner: Owner) -> Ledger:
    ledger = owner.ledger
    ledger.submit(ONE, "get", "rita", "mean(x, 0)\nof [red]heart\x1b[2J", b"bytes")
    ledger.submit(TWO, "move", "bob", "second", b"bytes")
    return ledger


def test_requests_are_listed_and_shown(owner: Owner) -> None:
    assert owner.says("requests", "list") == "no requests waiting\n"
    assert owner.says("requests", "list", "--all") == "no requests\n"
    ledger = ask(owner)
    listed = owner.says("requests", "list")
    for part in (ONE[:16], TWO[:16], "rita", "bob", "pending", "mean(x, 0)"):
        assert part in listed
    shown = owner.says("requests", "show", "ab")
    for part in (ONE, "rita", "mean(x, 0)\nof [red]heart", f"smpc-fl requests approve {ONE[:16]}"):
        assert part in shown
    assert "\x1b" not in shown
    ledger.decide(ONE, True, "fine")
    ledger.deposit_receipt(ONE, "released to rita")
    shown = owner.says("requests", "show", ONE)
    assert "approved: fine" in shown
    assert "released to rita" in shown
    assert ONE[:16] not in owner.says("requests", "list")
    assert ONE[:16] in owner.says("requests", "list", "--all")
    ledger.decide(TWO, False)
    assert "(2 decided: see --all)" in owner.says("requests", "list")


def test_decisions_reach_the_node(owner: Owner) -> None:
    node = ask(owner)
    before = node.changes()
    assert f"approved {ONE[:16]} (get, rita)" in owner.says("requests", "approve", ONE[:16])
    assert f"rejected {TWO[:16]} (move, bob)" in owner.says("requests", "reject", TWO, "--reason", "too much")
    assert node.changes() != before
    assert [node.status(digest) for digest in (ONE, TWO)] == ["approved", "rejected"]
    found = node.request(TWO)
    assert found is not None
    assert found.reason == "too much"
    assert node.consume(ONE)


def test_several_at_once_or_none(owner: Owner) -> None:
    node = ask(owner)
    assert "no request begins with 'ee'" in owner.fails("requests", "approve", "ab", "ee")
    assert node.status(ONE) == "pending"
    assert owner.says("requests", "approve", "AB", "cd").count("approved") == 2


def test_digests_may_be_shortened_as_far_as_they_are_clear(owner: Owner) -> None:
    ledger = ask(owner)
    ledger.submit("abcd" * 16, "get", "rita", "third", b"bytes")
    assert "2 requests begin with ab: give more digits" in owner.fails("requests", "show", "ab")
    assert "third" in owner.says("requests", "show", "abc")
    assert "no request begins with ''" in owner.fails("requests", "show", "")


def test_a_missing_syft_is_noted_beside_the_answer(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syft, "syft_installed", lambda: False)
    config = owner.folder / "owner.toml"
    config.write_text(config.read_text().replace('"own"', '"syft"'))
    result = owner("requests", "list")
    assert result.stdout == "no requests waiting\n"
    assert "note: syft is not installed" in result.stderr
