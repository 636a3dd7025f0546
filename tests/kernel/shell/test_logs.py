"""Containers' logs: reading by offset, how much of each is kept, and how many."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from huterox_kernel.shell import logs as logs_module
from huterox_kernel.shell.inotify import FolderWatch
from huterox_kernel.shell.logs import Logs
from huterox_wire.errors import NotFound

C = 1 << 32 | 5
KEPT = 64 * 1024
SLACK = 3 * 4096  # what is kept is a part of KEPT, in whole blocks
PATIENCE_S = 30.0


def write(logs: Logs, data: bytes, name: str = "c1.5") -> None:
    descriptor = logs.open(name)
    os.write(descriptor, data)
    os.close(descriptor)
    logs.release(name)


def until(done: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    logs = Logs(tmp_path / "logs", nbytes_max=KEPT, files_max=2)
    yield logs
    logs.close()


def test_a_log_is_read_from_its_beginning(logs: Logs) -> None:
    write(logs, b"hello\n")
    assert logs.read(C, 0, 100) == ("hello\n", 0, 6)


def test_a_negative_offset_counts_from_the_end(logs: Logs) -> None:
    write(logs, b"one\ntwo\n")
    assert logs.read(C, -4, 100) == ("two\n", 4, 8)
    assert logs.read(C, -1000, 100) == ("one\ntwo\n", 0, 8)


def test_reading_on_yields_only_what_is_new(logs: Logs) -> None:
    write(logs, b"one\n")
    _, _, offset = logs.read(C, 0, 100)
    assert logs.read(C, offset, 100) == ("", 4, 4)
    write(logs, b"two\n")
    assert logs.read(C, offset, 100) == ("two\n", 4, 8)


def test_a_limit_cuts_and_the_rest_follows(logs: Logs) -> None:
    write(logs, b"abcdef")
    assert logs.read(C, 0, 4) == ("abcd", 0, 4)
    assert logs.read(C, 4, 4) == ("ef", 4, 6)


def test_an_offset_beyond_the_end_yields_nothing_and_the_end(logs: Logs) -> None:
    write(logs, b"abc")
    assert logs.read(C, 999, 10) == ("", 3, 3)


def test_a_character_is_not_cut_in_two(logs: Logs) -> None:
    write(logs, "aé".encode())
    assert logs.read(C, 0, 2) == ("a", 0, 1)
    assert logs.read(C, 1, 2) == ("é", 1, 3)


def test_bytes_that_are_no_text_are_replaced_and_passed(logs: Logs) -> None:
    write(logs, b"\xff\xfe\xc3")
    text, _, offset = logs.read(C, 0, 100)
    assert set(text) == {"\ufffd"}
    while offset < 3:
        text, _, offset = logs.read(C, offset, 100)
    assert offset == 3


def test_a_container_without_a_log_is_not_found(logs: Logs) -> None:
    with pytest.raises(NotFound, match=r"c1\.5"):
        logs.read(C, 0, 10)


@pytest.mark.parametrize("is_open", [True, False])
def test_the_end_of_a_long_log_is_kept_and_offsets_stay(logs: Logs, is_open: bool) -> None:
    descriptor = logs.open("c1.5")
    data = b"".join(b"%9d\n" % index for index in range(20_000))
    os.write(descriptor, data)
    os.close(descriptor)
    if not is_open:
        logs.release("c1.5")
    until(lambda: allocated(logs.path("c1.5")) <= KEPT)
    text, offset, end = logs.read(C, 0, len(data))
    assert text.encode() == data[offset:]
    assert KEPT * logs_module.KEPT_PART <= end - offset <= KEPT * logs_module.KEPT_PART + SLACK
    assert logs.read(C, -10, 100) == ("    19999\n", len(data) - 10, len(data))


def test_a_short_log_is_kept_whole(logs: Logs) -> None:
    write(logs, b"a" * KEPT)
    logs.shorten("c1.5")
    assert logs.read(C, 0, 2 * KEPT) == ("a" * KEPT, 0, KEPT)


def test_not_a_byte_is_lost_to_who_reads_while_it_is_written(logs: Logs) -> None:
    descriptor = logs.open("c1.5")
    offset = 0
    for number in range(200):
        line = b"%5d%s\n" % (number, b"x" * 2000)
        os.write(descriptor, line)
        assert logs.read(C, offset, KEPT) == (line.decode(), offset, offset + len(line))
        offset += len(line)
    os.close(descriptor)


def test_a_log_is_shortened_while_another_process_writes_without_end(logs: Logs) -> None:
    descriptor = logs.open("c1.5")
    code = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=descriptor) as writer:
        os.close(descriptor)
        try:
            seen: set[int] = set()
            until(lambda: seen.add(logs.read(C, 0, 1).offset) or len(seen) >= 10)
            assert writer.poll() is None
        finally:
            writer.kill()
    until(lambda: allocated(logs.path("c1.5")) <= KEPT)


def test_a_log_whose_name_was_removed_is_bounded_and_can_be_read(logs: Logs) -> None:
    descriptor = logs.open("c1.5")
    logs.path("c1.5").unlink()
    os.write(descriptor, b"a" * 10 * KEPT)
    logs.shorten("c1.5")
    assert os.fstat(descriptor).st_blocks * 512 <= KEPT
    assert logs.read(C, -3, 10) == ("aaa", 10 * KEPT - 3, 10 * KEPT)
    again = logs.open("c1.5")  # by name, as a second zygote opens the log of its kind
    os.write(again, b"new")
    assert logs.read(C, 0, 10) == ("new", 10 * KEPT, 10 * KEPT + 3)
    os.close(descriptor)
    os.close(again)


def test_a_folder_that_was_removed_is_made_again_and_watched(logs: Logs) -> None:
    shutil.rmtree(logs.path("c1.5").parent)
    descriptor = logs.open("c1.5")
    for _ in range(2):
        os.write(descriptor, b"a" * 2 * KEPT)
        until(lambda: allocated(logs.path("c1.5")) <= KEPT)
    os.close(descriptor)


def test_where_no_log_can_be_made_what_is_written_is_lost(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    logs = Logs(tmp_path / "logs", nbytes_max=KEPT, files_max=2)
    write(logs, b"into nothing")
    with pytest.raises(OSError, match="Not a directory"):
        logs.read(C, 0, 10)
    logs.close()


def test_a_file_system_without_holes_has_its_logs_emptied(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, nbytes: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(logs_module, "punch_pages", refuse)
    descriptor = logs.open("c1.5")
    os.write(descriptor, b"a" * 2 * KEPT)
    until(lambda: logs.path("c1.5").stat().st_size == 0)
    os.write(descriptor, b"b")
    assert logs.read(C, 0, 10) == ("b", 2 * KEPT, 2 * KEPT + 1)
    os.close(descriptor)
    logs.release("c1.5")
    assert logs.read(C, 0, 10) == ("b", 2 * KEPT, 2 * KEPT + 1)


def test_where_nobody_tells_of_writes_logs_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(watch: FolderWatch, folder: str) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(FolderWatch, "__init__", refuse)
    logs = Logs(tmp_path / "logs", nbytes_max=KEPT, files_max=2)
    write(logs, b"a" * 2 * KEPT)
    until(lambda: allocated(logs.path("c1.5")) <= KEPT)
    logs.close()


def test_a_new_kernel_knows_what_is_kept_of_an_old_log(logs: Logs, tmp_path: Path) -> None:
    write(logs, b"a" * 10 * KEPT)
    until(lambda: allocated(logs.path("c1.5")) <= KEPT)
    other = Logs(tmp_path / "logs", nbytes_max=KEPT, files_max=2)
    assert other.read(C, 0, 10).offset == logs.read(C, 0, 10).offset > 0
    other.close()


def test_only_the_newest_logs_that_nobody_writes_to_are_kept(tmp_path: Path) -> None:
    for number, name in [*((number, f"c1.{number}") for number in range(5)), (1, "zygote-env")]:
        (tmp_path / f"{name}.log").write_text("x")
        os.utime(tmp_path / f"{name}.log", (number, number))
    logs = Logs(tmp_path, nbytes_max=KEPT, files_max=2)
    os.close(logs.open("c1.0"))
    os.close(logs.open("c1.9"))
    left = {"c1.0.log", "c1.3.log", "c1.4.log", "c1.9.log"}
    until(lambda: {path.name for path in tmp_path.iterdir()} == left)
    logs.close()
