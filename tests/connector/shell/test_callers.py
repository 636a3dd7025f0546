"""Callers that send nonsense, leave, or do not read."""

import os
import random
import time
from pathlib import Path

import pytest
from tests.connector.shell.daemon import CALLER_NBYTES_MAX, MIB, Daemon, serve

from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import encode
from huterox_wire.meta import decode_error
from huterox_wire.nodes import (
    HeartbeatMeta,
)

pytestmark = pytest.mark.system
RANDOM = random.Random(1)


def test_garbage_is_answered_with_a_typed_error_and_harms_nobody(daemon: Daemon) -> None:
    caller, _, _, _ = serve(daemon)
    hostile, hostile_kernel = daemon.caller(), daemon.peer(daemon.back, b"hostile")
    for size in (0, 1, 39, 40, 41, 1000, 100_000):
        hostile.send([RANDOM.randbytes(size)])
        (frame,) = hostile.receive()
        assert unpack_header(frame).kind is Kind.ERROR
        assert decode_error(frame[40:]).code == "InvalidInput"
        hostile_kernel.send([b"", RANDOM.randbytes(size)])
        hostile_kernel.send([RANDOM.randbytes(size), RANDOM.randbytes(size), RANDOM.randbytes(size)])
        hostile_kernel.send([RANDOM.randbytes(size)])
    hostile.send([RANDOM.randbytes(10)] * 50)
    assert unpack_header(hostile.receive()[0]).kind is Kind.ERROR
    assert caller.ask("status")["nodes"] == 1


def test_caller_that_leaves_is_no_trouble(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    leaving = daemon.caller()
    leaving.send(encode(Kind.CALL, 1, handle, 5_000_000, b"\x80"))
    route, _ = kernel.receive_call()
    leaving.socket.close(linger=0)
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, 1)])
    assert caller.ask("status")["calls_waiting"] == 0


def test_calls_of_a_caller_that_leaves_are_cancelled_soon(daemon: Daemon) -> None:
    """One runs and answers nothing; one waits for a load, which nobody needs any more."""
    caller, kernel, handle, container = serve(daemon)
    caller.ask("deploy", model={"name": "slow", "entry": "m.py:M"})
    caller.ask("create", name="slow", model="slow")
    leaving = daemon.caller()
    slow = leaving.open("slow")
    leaving.send(encode(Kind.CALL, 20, handle, 60_000_000, b"\x80"))
    leaving.send(encode(Kind.CALL, 21, slow, 60_000_000, b"\x80"))
    sent, _ = kernel.receive_call()
    kernel.receive_control(Kind.CREATE)
    leaving.socket.close(linger=0)
    route, frames = kernel.receive_call()
    assert (route, unpack_header(frames[0]).kind, unpack_header(frames[0]).request_id) == (sent, Kind.CANCEL, 20)
    status = caller.ask("status")
    assert (status["calls_in_flight"], status["calls_waiting"]) == (0, 0)
    assert int.from_bytes(sent[:8], "little") == container


def test_stream_ends_when_its_caller_has_left(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    leaving = daemon.caller()
    leaving.send(encode(Kind.CALL, 20, handle, 60_000_000, b"\x80", (), int(Flag.STREAM)))
    route, _ = kernel.receive_call()
    leaving.socket.close(linger=0)
    until_s = time.monotonic() + 10.0
    while not kernel.socket.poll(5):
        assert time.monotonic() < until_s
        kernel.send([route, pack_header(Kind.PART, Flag.PACKED, 0, 20)])
    assert unpack_header(kernel.receive_call()[1][0]).kind is Kind.CANCEL
    assert caller.ask("status")["calls_in_flight"] == 0


def test_what_waits_for_a_caller_that_does_not_read_is_bounded_in_bytes(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    asleep = daemon.sleeper()
    asleep.send(encode(Kind.CALL, 20, handle, 60_000_000, b"\x80", (), int(Flag.STREAM)))
    route, _ = kernel.receive_call()
    before = resident_nbytes(daemon.process.pid)
    sent, part = 0, [route, pack_header(Kind.PART, 0, 1, 20, meta_nbytes=1), b"\x80", bytes(MIB // 2)]
    while not kernel.socket.poll(2):
        kernel.send(part)
        sent += 1
        assert sent < 400, "the switchboard takes what nobody reads"
    assert unpack_header(kernel.receive_call()[1][0]).kind is Kind.CANCEL
    assert resident_nbytes(daemon.process.pid) - before < 4 * CALLER_NBYTES_MAX
    assert caller.ask("status")["calls_in_flight"] == 0
    kinds = [unpack_header(asleep.receive()[0]).kind]  # what was sent is read in the end, and then why there is no more
    while kinds[-1] is Kind.PART:
        frames = asleep.receive()
        kinds.append(unpack_header(frames[0]).kind)
    assert kinds[-1] is Kind.ERROR
    assert decode_error(frames[0][40:]).code == "Busy"
    assert len(kinds) >= CALLER_NBYTES_MAX / MIB
    assert asleep.ask("status")["nodes"] == 1  # who reads again is served again


def test_answers_over_the_bound_are_replaced_by_an_error(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    asleep = daemon.sleeper()
    for number in range(40):
        asleep.send(encode(Kind.CALL, number, handle, 60_000_000, b"\x80"))
    for number in range(40):
        route, _ = kernel.receive_call()
        kernel.send([route, pack_header(Kind.REPLY, 0, 1, number, meta_nbytes=1), b"\x80", bytes(MIB)])
    until_s = time.monotonic() + 10.0
    while caller.ask("status")["calls_in_flight"]:
        assert time.monotonic() < until_s
    answers = [asleep.receive() for _ in range(40)]
    kinds = {unpack_header(frames[0]).request_id: unpack_header(frames[0]).kind for frames in answers}
    assert len(kinds) == 40
    errors = [decode_error(frames[0][40:]) for frames in answers if unpack_header(frames[0]).kind is Kind.ERROR]
    assert 10 <= len(errors) <= 32
    assert {error.code for error in errors} == {"Busy"}


def test_message_of_too_many_frames_is_refused_and_holds_nobody_up_for_long(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    hostile = daemon.caller()
    hostile.send([pack_header(Kind.CALL, 0, 0, 77, handle), *[b""] * 200_000])
    for number in range(20):
        caller.send(encode(Kind.CALL, 30 + number, handle, 5_000_000, b"\x80"))
        route, _ = kernel.receive_call()
        kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, 30 + number)])
        assert unpack_header(caller.receive()[0]).request_id == 30 + number
    (frame,) = hostile.receive()
    assert (unpack_header(frame).request_id, decode_error(frame[40:]).code) == (77, "TooLarge")
    assert hostile.ask("status")["nodes"] == 1  # the rest of its message is no message
    kernel.send([b"", *[b""] * 5000])
    kernel.send_control(Kind.HEARTBEAT, HeartbeatMeta("n1", "b1"))
    kernel.receive_control(Kind.HEARTBEAT)


def resident_nbytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
