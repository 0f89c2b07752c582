"""The spool: a write never touches what is in use, is whole or did not happen, and opens with its own key only."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.home import direct
from smpc_fl.nodes.home import spool as module
from smpc_fl.nodes.home.direct import CHUNK
from smpc_fl.nodes.home.spool import FREE_FILES, TAG, Slot, Spool

PLAIN = CHUNK - TAG


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class BrokenDisk(Spool):
    """Fails with `error` in the step that `fails` names."""

    fails = ""
    error = errno.ENOSPC

    def _step(self, name: str) -> None:
        if self.fails == name:
            raise OSError(self.error, os.strerror(self.error))

    def _allocate(self, descriptor: int, size: int) -> None:
        super()._allocate(descriptor, size)
        self._step("allocate")

    def _write(self, descriptor: int, data: memoryview, at: int) -> None:
        super()._write(descriptor, data[:4096], at)
        self._step("write")
        super()._write(descriptor, data[4096:], at + 4096)

    def _sync(self, descriptor: int) -> None:
        self._step("sync")
        super()._sync(descriptor)


@pytest.mark.parametrize("size", [0, 1, 4096, PLAIN - 1, PLAIN, PLAIN + 1, 2 * PLAIN + 5])
def test_what_was_written_is_read_also_by_the_next_process(folder: Path, size: int) -> None:
    data = os.urandom(size)
    slot = Spool(folder).write(memoryview(data))
    assert slot.size == size
    again = Spool(folder)
    again.keep({slot.file})
    assert again.read(slot) == data


def test_a_file_in_use_is_never_overwritten_and_a_free_one_serves_again(folder: Path) -> None:
    spool = Spool(folder)
    first = spool.write(b"first")
    second = spool.write(b"second")
    assert second.file != first.file
    spool.keep({second.file})
    third = spool.write(b"third")
    assert third.file == first.file
    assert spool.read(second) == b"second"
    assert spool.read(third) == b"third"
    with pytest.raises(Unavailable, match="does not hold what was written to it last"):
        spool.read(first)
    assert names(folder) == {"1", "2"}


def test_two_files_carry_any_number_of_writes(folder: Path) -> None:
    spool = Spool(folder)
    for number in range(10):
        spool.keep({spool.write(bytes([number]) * 5000).file})
    assert names(folder) == {"1", "2"}


def test_the_smallest_file_that_will_do_is_taken_and_the_largest_grows(folder: Path) -> None:
    spool = Spool(folder)
    small, large = spool.write(bytes(10)), spool.write(bytes(100_000))
    spool.keep(())
    assert spool.write(bytes(10_000)).file == large.file
    spool.keep(())
    assert spool.write(bytes(10)).file == small.file
    spool.keep(())
    grown = spool.write(bytes(1_000_000))
    assert grown.file == large.file
    assert spool.read(grown) == bytes(1_000_000)
    assert (folder / str(grown.file)).stat().st_size >= 1_000_000


def test_free_files_are_few_and_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(folder)
    slots = [spool.write(bytes(5000)) for _ in range(FREE_FILES + 3)]
    spool.keep({slots[0].file})
    spool.keep({slots[0].file})
    assert len(names(folder)) == FREE_FILES + 1
    monkeypatch.setattr(module, "FREE_BYTES", 3 * 8192)
    spool.keep({slots[0].file})
    assert len(names(folder)) == 3 + 1
    monkeypatch.setattr(module, "FREE_BYTES", 1)
    spool.keep(())
    assert len(names(folder)) == 1, "one may be as large as it is: the next write needs it"


def test_at_the_start_what_nobody_refers_to_is_free(folder: Path) -> None:
    spool = Spool(folder)
    kept, lost = spool.write(b"kept"), spool.write(b"lost")
    (folder / "letter").write_text("to my aunt")
    again = Spool(folder)
    again.keep({kept.file})
    assert again.write(b"new").file == lost.file
    assert again.read(kept) == b"kept"
    assert (folder / "letter").read_text() == "to my aunt"


def test_the_disk_holds_nothing_that_opens_without_the_slot(folder: Path) -> None:
    spool = Spool(folder)
    secret = os.urandom(20_000)
    slot = spool.write(secret)
    content = (folder / str(slot.file)).read_bytes()
    assert secret[:16] not in content
    assert slot.key not in content
    assert spool.write(secret).key != slot.key
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / str(slot.file)).stat().st_mode & 0o777 == 0o600
    assert repr(slot) == f"Slot(file={slot.file}, size=20000)"


@pytest.mark.parametrize("size", [0, 100, PLAIN + 100])
def test_what_was_altered_or_is_gone_is_unavailable(folder: Path, size: int) -> None:
    spool = Spool(folder)
    slot = spool.write(os.urandom(size))
    path = folder / str(slot.file)
    good = path.read_bytes()
    at = size - 1 if size else 0
    end = (len(good) // CHUNK) * CHUNK + size % PLAIN if size > PLAIN else size
    for bad in (good[: end + TAG - 1], good[:3], b"", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]):
        path.write_bytes(bad)
        with pytest.raises(Unavailable, match=r"1 does not hold what was written to it last"):
            spool.read(slot)
    path.write_bytes(good)
    with pytest.raises(Unavailable, match="does not hold"):
        spool.read(Slot(slot.file, slot.size, bytes(32)))
    if size:
        with pytest.raises(Unavailable, match="does not hold"):
            spool.read(Slot(slot.file, slot.size - 1, slot.key))
    assert len(spool.read(slot)) == size
    path.unlink()
    with pytest.raises(Unavailable, match="1 cannot be read: No such file"):
        spool.read(slot)


def test_chunks_stand_in_their_order(folder: Path) -> None:
    spool = Spool(folder)
    slot = spool.write(os.urandom(2 * PLAIN))
    path = folder / str(slot.file)
    good = path.read_bytes()
    path.write_bytes(good[CHUNK : 2 * CHUNK] + good[:CHUNK])
    with pytest.raises(Unavailable, match="does not hold"):
        spool.read(slot)


@pytest.mark.parametrize("fails", ["allocate", "write", "sync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_broken_disk_harms_nothing_and_is_outlived(folder: Path, fails: str, error: int) -> None:
    spool = BrokenDisk(folder)
    kept, free = spool.write(b"kept"), spool.write(bytes(10))
    spool.keep({kept.file})
    spool.fails, spool.error = fails, error
    with pytest.raises(OSError, match=os.strerror(error)):
        spool.write(bytes(100_000))
    assert names(folder) == {str(kept.file)}, "nobody knows what the other one holds now"
    assert spool.read(kept) == b"kept"
    spool.fails = ""
    after = spool.write(bytes(100_000))
    assert spool.read(after) == bytes(100_000)
    assert after.file == free.file


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "nowhere" / "spool")
    with pytest.raises(FileNotFoundError):
        spool.write(b"data")


def test_a_file_that_cannot_be_removed_is_free_at_the_next_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(folder)
    for _ in range(FREE_FILES + 1):
        spool.write(b"")

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        spool.keep(())
    assert len(names(folder)) == FREE_FILES + 1
    again = Spool(folder)
    again.keep(())
    assert len(names(folder)) == FREE_FILES


def test_short_writes_go_on_where_they_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: whole(descriptor, data[:8192], at))
    spool = Spool(folder)
    data = os.urandom(50_000)
    assert spool.read(spool.write(data)) == data


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what only Linux has")
def test_a_system_that_lacks_what_linux_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def without_direct(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "a file system without direct I/O")
        return opened(path, flags, mode)

    def no_advice(self: mmap.mmap, advice: int) -> None:
        raise OSError(errno.EINVAL, "a kernel without huge pages")

    class Plain(mmap.mmap):
        madvise = no_advice  # type: ignore[assignment]

    data = os.urandom(50_000)
    monkeypatch.setattr(os, "open", without_direct)
    monkeypatch.setattr(mmap, "mmap", Plain)
    monkeypatch.setattr(direct, "_idle", [])
    spool = Spool(folder)
    assert spool.read(spool.write(data)) == data
    for name in ("posix_fallocate", "fdatasync"):
        monkeypatch.delattr(os, name)
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    monkeypatch.setattr(direct, "_DIRECT", 0)
    monkeypatch.setattr(direct, "_idle", [])
    spool = Spool(folder)
    assert spool.read(spool.write(data)) == data


def test_other_errors_of_opening_are_not_taken_for_a_missing_feature(folder: Path) -> None:
    spool = Spool(folder)
    spool.keep({spool.write(b"a").file})
    free = spool.write(b"b")
    spool.keep(())
    (folder / str(free.file)).unlink()
    (folder / "1").unlink()
    with pytest.raises(FileNotFoundError):
        spool.write(b"c")
    with pytest.raises(FileNotFoundError):
        spool.write(b"c")
    slot = spool.write(b"c")
    assert spool.read(slot) == b"c"
