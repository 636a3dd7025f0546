"""The packets between kernel, zygote and worker."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from huterox_kernel.worker import control
from huterox_kernel.worker.control import Close, ControlError, Decoder, Failed, Progress, Start
from huterox_wire.nodes import ModelSpec

Pair = tuple[socket.socket, socket.socket]
decode = Decoder(control.FromWorker)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_a_packet_arrives_with_its_descriptors_which_do_not_outlive_an_exec(pair: Pair) -> None:
    ours, theirs = pair
    reading, writing = os.pipe()
    control.send(theirs, Progress("load"), [reading])
    received = control.receive(ours, decode)
    assert received is not None
    message, (descriptor,) = received
    assert message == Progress("load")
    assert not os.get_inheritable(descriptor)
    os.write(writing, b"x")
    assert os.read(descriptor, 1) == b"x"
    control.close_all([descriptor, reading, writing])


def test_nothing_there_and_a_closed_peer_are_told_apart(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        control.receive(ours, decode)
    theirs.close()
    assert control.receive(ours, decode) is None


@pytest.mark.parametrize("packet", [b"\xc1", b"\x80", b"\x81\xa4type\xa5Close", b"\xff" * 100, b"\x81\xa4type\x01"])
def test_a_packet_that_makes_no_sense_is_an_error_and_leaves_no_descriptor(pair: Pair, packet: bytes) -> None:
    ours, theirs = pair
    before = open_descriptors()
    socket.send_fds(theirs, [packet], [theirs.fileno()])
    with pytest.raises(ControlError, match="malformed"):
        control.receive(ours, decode)
    assert open_descriptors() == before


def test_a_packet_that_was_cut_off_is_an_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x" * (control.PACKET_NBYTES_MAX + 1))
    with pytest.raises(ControlError, match="cut off"):
        control.receive(ours, decode)


def test_of_more_descriptors_than_are_taken_none_is_kept(pair: Pair) -> None:
    ours, theirs = pair
    before = open_descriptors()
    control.send(theirs, Progress("load"), [theirs.fileno()] * (control.DESCRIPTORS_MAX + 5))
    assert control.receive(ours, decode) == (Progress("load"), [])
    assert open_descriptors() == before


def test_descriptors_beyond_the_limit_of_this_process_are_not_kept_and_the_message_is(pair: Pair) -> None:
    ours, theirs = pair
    before = open_descriptors()
    control.send(theirs, Progress("load"), [theirs.fileno()] * 3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        received = control.receive(ours, decode)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert received == (Progress("load"), [])
    assert open_descriptors() == before


def test_a_packet_that_is_too_long_is_not_sent(pair: Pair) -> None:
    _, theirs = pair
    with pytest.raises(ControlError, match="at most"):
        control.send(theirs, Failed("x" * (control.PACKET_NBYTES_MAX + 1), ""))


def test_a_start_of_any_size_travels_as_a_file() -> None:
    start = Start(7, ModelSpec(name="m", entry="m.py:M", params={"text": "x" * 900_000}), 3)
    assert control.read_start(control.write_start(start)) == start


def test_a_start_file_that_makes_no_sense_is_an_error() -> None:
    descriptor = os.memfd_create("test")
    os.write(descriptor, b"nonsense")
    with pytest.raises(ControlError):
        control.read_start(descriptor)


def test_messages_of_the_other_direction_are_not_taken() -> None:
    with pytest.raises(ControlError):
        decode(control._ENCODE(Close()))
