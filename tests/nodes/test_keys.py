from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.files import private_folder, read, replace, write_new
from smpc_fl.nodes.home.keys import HEADER, load_key, make_key, public_path, read_public


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_loads(tmp_path: Path) -> None:
    file = tmp_path / "new" / "alice.key"
    made = make_key(file)
    assert mode(file) == 0o600
    assert load_key(file).public == made.public
    assert read_public(str(public_path(file))) == made.public
    before = file.read_bytes()
    with pytest.raises(ConfigInvalid, match="exists already and is not overwritten"):
        make_key(file)
    public_path(file).unlink()
    with pytest.raises(ConfigInvalid, match="exists already and is not overwritten"):
        make_key(file)
    assert file.read_bytes() == before


def test_a_public_half_is_not_overwritten_and_no_private_key_is_left_then(tmp_path: Path) -> None:
    (tmp_path / "alice.pub").write_text("somebody's")
    with pytest.raises(ConfigInvalid, match=r"alice.pub exists already"):
        make_key(tmp_path / "alice.key")
    assert not (tmp_path / "alice.key").exists()
    with pytest.raises(ConfigInvalid, match=r"\.pub is for public halves"):
        make_key(tmp_path / "bob.pub")


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_key(tmp_path / "alice.key")
    finally:
        os.umask(old)
    assert mode(tmp_path / "alice.key") == 0o600


def test_keys_come_from_the_given_entropy_and_differ(tmp_path: Path) -> None:
    first = make_key(tmp_path / "a.key", lambda n: bytes(range(n)))
    again = make_key(tmp_path / "b.key", lambda n: bytes(range(n)))
    assert first.public == again.public
    assert make_key(tmp_path / "c.key").public != make_key(tmp_path / "d.key").public


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    file = tmp_path / "alice.key"
    make_key(file)
    file.chmod(bits)
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        load_key(file)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xff", b"00" * 32, HEADER.encode() + b"00" * 31, HEADER.encode() + b"xyz"]
)
def test_what_is_no_key_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "alice.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigInvalid, match="not a private key of `smpc-fl keygen`") as caught:
        load_key(file)
    assert "00" * 16 not in str(caught.value)
    assert caught.value.__suppress_context__


def test_missing_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"No such file.*keygen"):
        load_key(tmp_path / "none.key")
    with pytest.raises(ConfigInvalid, match="not a file"):
        load_key(tmp_path)
    big = tmp_path / "big.key"
    big.write_bytes(bytes(2000))
    big.chmod(0o600)
    with pytest.raises(ConfigInvalid, match="over 1024 bytes"):
        load_key(big)


def test_public_keys_as_hex_or_file(tmp_path: Path) -> None:
    made = make_key(tmp_path / "alice.key").public
    assert read_public(made.hex) == made
    assert read_public(f" {made.hex.upper()} ") == made
    with pytest.raises(ConfigInvalid, match=r"names a private key.*alice\.pub"):
        read_public(str(tmp_path / "alice.key"))
    for text in ("", "abc", "zz" * 32, "ab" * 31):
        with pytest.raises(ConfigInvalid, match="64 hex digits"):
            read_public(text)
    (tmp_path / "bad.pub").write_bytes(b"\xff")
    with pytest.raises(ConfigInvalid, match="64 hex digits"):
        read_public(str(tmp_path / "bad.pub"))
    with pytest.raises(ConfigInvalid, match="No such file"):
        read_public(str(tmp_path / "none.pub"))


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "state"
    replace(file, b"one", mode=0o600)
    replace(file, b"two", mode=0o600)
    assert file.read_bytes() == b"two"
    assert mode(file) == 0o600
    assert os.listdir(file.parent) == ["state"]
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        replace(file, b"three")
    assert os.listdir(file.parent) == ["state"]


def test_new_files_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        write_new(tmp_path / "file" / "below", b"")


def test_reading_says_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read(tmp_path / "file", "a thing", "Make one", limit=5) == b"12345"
    with pytest.raises(ConfigInvalid, match="so it is not a thing"):
        read(tmp_path / "file", "a thing", "Make one", limit=4)


def test_a_home_is_closed_to_others(tmp_path: Path) -> None:
    home = private_folder(tmp_path / "a" / "home")
    assert mode(home) == 0o700
    assert private_folder(home) == home
    home.chmod(0o750)
    with pytest.raises(ConfigInvalid, match="chmod 700"):
        private_folder(home)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match="cannot be made"):
        private_folder(tmp_path / "file")
