"""Containers' logs: reading by offset, rotation, and how many are kept."""

import os
from pathlib import Path

import pytest

from huterox_kernel.shell.logs import Logs
from huterox_wire.errors import NotFound

C = 1 << 32 | 5


def write(logs: Logs, data: bytes, name: str = "c1.5") -> None:
    descriptor = logs.open(name)
    os.write(descriptor, data)
    os.close(descriptor)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "logs", nbytes_max=100, files_max=2)


def test_a_log_is_read_from_its_beginning(logs: Logs) -> None:
    write(logs, b"hello\n")
    assert logs.read(C, 0, 100) == ("hello\n", 6)


def test_a_negative_offset_counts_from_the_end(logs: Logs) -> None:
    write(logs, b"one\ntwo\n")
    assert logs.read(C, -4, 100) == ("two\n", 8)
    assert logs.read(C, -1000, 100) == ("one\ntwo\n", 8)


def test_reading_on_yields_only_what_is_new(logs: Logs) -> None:
    write(logs, b"one\n")
    _, offset = logs.read(C, 0, 100)
    assert logs.read(C, offset, 100) == ("", 4)
    write(logs, b"two\n")
    assert logs.read(C, offset, 100) == ("two\n", 8)


def test_a_limit_cuts_and_the_rest_follows(logs: Logs) -> None:
    write(logs, b"abcdef")
    assert logs.read(C, 0, 4) == ("abcd", 4)
    assert logs.read(C, 4, 4) == ("ef", 6)


def test_an_offset_beyond_the_end_yields_nothing_and_the_end(logs: Logs) -> None:
    write(logs, b"abc")
    assert logs.read(C, 999, 10) == ("", 3)


def test_a_character_is_not_cut_in_two(logs: Logs) -> None:
    write(logs, "aé".encode())
    assert logs.read(C, 0, 2) == ("a", 1)
    assert logs.read(C, 1, 2) == ("é", 3)


def test_bytes_that_are_no_text_are_replaced_and_passed(logs: Logs) -> None:
    write(logs, b"\xff\xfe\xc3")
    text, offset = logs.read(C, 0, 100)
    assert set(text) == {"\ufffd"}
    while offset < 3:
        text, offset = logs.read(C, offset, 100)
    assert offset == 3


def test_a_container_without_a_log_is_not_found(logs: Logs) -> None:
    with pytest.raises(NotFound, match=r"c1\.5"):
        logs.read(C, 0, 10)


def test_rotation_keeps_offsets_going_on(logs: Logs) -> None:
    write(logs, b"a" * 150)
    logs.rotate()
    assert logs.path("c1.5").stat().st_size == 0
    write(logs, b"new")
    assert logs.read(C, 150, 100) == ("new", 153)
    assert logs.read(C, -3, 100) == ("new", 153)


def test_what_was_rotated_away_can_still_be_read_once(logs: Logs) -> None:
    write(logs, b"a" * 150)
    logs.rotate()
    write(logs, b"b" * 10)
    assert logs.read(C, 140, 100) == ("a" * 10, 150)
    assert logs.read(C, 0, 1000) == ("a" * 150, 150)


def test_an_offset_before_all_that_is_kept_yields_the_oldest(logs: Logs) -> None:
    for letter in (b"a", b"b", b"c"):
        write(logs, letter * 150)
        logs.rotate()
    assert logs.read(C, 0, 10) == ("c" * 10, 310)


def test_a_short_log_is_not_rotated(logs: Logs) -> None:
    write(logs, b"a" * 100)
    logs.rotate()
    assert logs.read(C, 0, 1000) == ("a" * 100, 100)


def test_a_writer_that_appends_need_not_know_of_the_rotation(logs: Logs) -> None:
    descriptor = logs.open("c1.5")
    os.write(descriptor, b"a" * 150)
    logs.rotate()
    os.write(descriptor, b"b")
    os.close(descriptor)
    assert logs.path("c1.5").read_bytes() == b"b"


def test_only_the_newest_logs_of_gone_containers_are_kept(logs: Logs) -> None:
    for index in range(5):
        write(logs, b"x" * 150, f"c1.{index}")
        logs.rotate()
        os.utime(logs.path(f"c1.{index}"), (index, index))
    write(logs, b"x", "zygote")
    logs.remove_old(in_use={"c1.0"})
    left = {path.name for path in logs.path("c1.0").parent.iterdir()}
    assert left == {"c1.0.log", "c1.0.log.1", "c1.3.log", "c1.3.log.1", "c1.4.log", "c1.4.log.1", "zygote.log"}
