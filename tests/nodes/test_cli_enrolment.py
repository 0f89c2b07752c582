"""`smpc-fl roster invite`, `enrol`, `roster enrol`: what serves once, and what never."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from smpc_fl.enrolment import Request
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.home import invitations
from smpc_fl.nodes.home.keys import load_key
from smpc_fl.nodes.home.roster_file import read_draft


def call(*args: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input, catch_exceptions=False)


def good(*args: object, input: str | None = None) -> Result:
    result = call(*args, input=input)
    assert result.exit_code == 0, result.output
    return result


def bad(*args: object, code: int = 2, input: str | None = None) -> str:
    result = call(*args, input=input)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(autouse=True)
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    good("roster", "new", "roster.toml", "--name", "hospitals")
    return tmp_path


def invite(id: str = "carol", role: str = "owner", *more: str) -> str:
    return good("roster", "invite", "roster.toml", "--id", id, "--role", role, *more).stdout.strip()


def members() -> list[str]:
    return [member.id for member in read_draft(Path("roster.toml")).members]


def test_from_the_invitation_to_the_roster(office: Path) -> None:
    token = invite()
    file = office / "roster.invitations"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    letters = token.rpartition("/")[2]
    secret = base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
    kept = file.read_text()
    assert letters not in kept
    assert secret.hex() not in kept

    said = good("enrol", "--token", token, "--key", "carol.key").output
    fingerprint = load_key(office / "carol.key").public.fingerprint
    assert fingerprint in said
    shown = good("roster", "enrol", "roster.toml", "carol.request", input="y\n").output
    assert fingerprint in shown
    (member,) = read_draft(Path("roster.toml")).members
    assert (member.id, member.role, member.key) == ("carol", "owner", load_key(office / "carol.key").public.key)

    assert "serves once" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")
    assert "is in the roster already" in bad("roster", "invite", "roster.toml", "--id", "carol", "--role", "owner")


def test_the_token_is_asked_for_and_an_existing_key_is_used(office: Path) -> None:
    token = invite()
    good("keygen", "own.key")
    output = good("enrol", "--key", "own.key", "--output", "asked", input=f"{token}\n").output
    assert token not in output
    assert load_key(office / "own.key").public.fingerprint in output
    assert "not overwritten" in bad("enrol", "--token", token, "--key", "own.key", "--output", "asked")
    good("roster", "enrol", "roster.toml", "asked", "--yes")


def test_listeners_give_their_address(office: Path) -> None:
    token = invite("hub", "coordinator", "--address", "wss://hub:8443")
    assert "needs --address" in bad("enrol", "--token", token, "--key", "hub.key")
    assert "not an address" in bad("enrol", "--token", token, "--key", "hub.key", "--address", "hub")
    good("enrol", "--token", token, "--key", "hub.key", "--address", "wss://evil:8443")
    assert "invited with the address wss://hub:8443, and gives wss://evil:8443" in bad(
        "roster", "enrol", "roster.toml", "hub.request", "--yes"
    )
    good("enrol", "--token", token, "--key", "hub.key", "--address", "wss://hub:8443", "--output", "second")
    good("roster", "enrol", "roster.toml", "second", "--yes")
    assert read_draft(Path("roster.toml")).coordinator.address == "wss://hub:8443"
    assert "only dials out" in bad("enrol", "--token", invite(), "--key", "c.key", "--address", "wss://h:1")
    assert not (office / "c.key").exists()


def test_a_fingerprint_that_differs_spends_the_token() -> None:
    good("enrol", "--token", invite(), "--key", "carol.key")
    assert "token is withdrawn" in bad("roster", "enrol", "roster.toml", "carol.request", code=1, input="n\n")
    assert "was withdrawn already" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")
    assert members() == []


def test_a_second_invitation_withdraws_the_first() -> None:
    good("enrol", "--token", invite(), "--key", "carol.key")
    invite()
    assert "not made with the token" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")


def test_a_token_expires(office: Path) -> None:
    good("enrol", "--token", invite("carol", "owner", "--valid", "12h"), "--key", "carol.key")
    file = office / "roster.invitations"
    (kept,) = invitations.read_invitations(Path("roster.toml"))
    assert timedelta(hours=11) < datetime.fromisoformat(kept.expires) - datetime.now(UTC) <= timedelta(hours=12)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="seconds")
    file.write_text(file.read_text().replace(kept.expires, past))
    assert f"expired at {past}" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")
    assert members() == []


def test_a_foreign_request_is_refused(office: Path) -> None:
    good("roster", "new", "other.toml", "--name", "banks")
    token = good("roster", "invite", "other.toml", "--id", "carol", "--role", "owner").stdout.strip()
    good("enrol", "--token", token, "--key", "carol.key")
    assert "has not been invited" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")
    invite()
    assert "BadSignature" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")


def test_a_request_under_the_right_token_in_another_role(office: Path) -> None:
    token = invite()
    other = token.replace("/owner/", "/researcher/")
    good("enrol", "--token", other, "--key", "carol.key")
    assert "not made with the token" in bad("roster", "enrol", "roster.toml", "carol.request", "--yes")


@pytest.mark.parametrize("field", Request.__struct_fields__)
def test_an_altered_request_is_refused(office: Path, field: str) -> None:
    good("enrol", "--token", invite(), "--key", "carol.key")
    path = office / "carol.request"
    head, _, body = path.read_text().partition(": ")
    fields = msgspec.msgpack.decode(base64.b64decode(body))
    value = fields[field]
    swapped = {"id": "caro1", "role": "researcher", "address": "wss://h:1"}
    fields[field] = bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else swapped[field]
    path.write_text(f"{head}: {base64.b64encode(msgspec.msgpack.encode(fields)).decode()}\n")
    assert any(
        word in bad("roster", "enrol", "roster.toml", path, "--yes") for word in ("BadSignature", "not been invited")
    )
    assert members() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "smpc-fl request: ",
        "smpc-fl request: gA==",
        "smpc-fl request: !!",
        "é",
        "x" * 5000,
        "smpc-fl rotation: gA==",
    ],
)
def test_what_is_no_request(office: Path, text: str) -> None:
    (office / "odd").write_text(text)
    assert "ConfigInvalid: odd" in bad("roster", "enrol", "roster.toml", "odd", "--yes")
    assert "cannot be read" in bad("roster", "enrol", "roster.toml", "none", "--yes")


def test_a_request_has_one_spelling(office: Path) -> None:
    good("enrol", "--token", invite(), "--key", "carol.key")
    path = office / "carol.request"
    head, _, body = path.read_text().partition(": ")
    fields = msgspec.msgpack.decode(base64.b64decode(body))
    odd = msgspec.msgpack.encode(dict(reversed(fields.items())))
    path.write_text(f"{head}: {base64.b64encode(odd).decode()}\n")
    assert "not a request as it was written" in bad("roster", "enrol", "roster.toml", path, "--yes")


def test_what_cannot_be_invited(office: Path) -> None:
    start = ["roster", "invite", "roster.toml", "--role", "owner"]
    assert "nobody can be invited like this" in bad(*start, "--id", "../x")
    for span in ("7", "d", "0d", "91d", "1000000d", "-1d", "1w", "²d"):
        assert "Invalid value" in bad(*start, "--id", "a", "--valid", span)
    assert "not an address" in bad(*start, "--id", "a", "--address", "h")
    assert not (office / "roster.invitations").exists()
    (office / "roster.invitations").write_text("nonsense")
    assert "not a list of invitations" in bad(*start, "--id", "a")
