"""The way of calls and orders between callers and kernels."""

import random

import msgspec
import pytest
from tests.connector.shell.daemon import Daemon, serve

from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import (
    LeasedMeta,
    LeaseMeta,
    LeaseOrderMeta,
    decode_drain,
    decode_lease_order,
    decode_leased,
)
from huterox_wire.message import encode
from huterox_wire.meta import decode_error, encode_meta
from huterox_wire.nodes import (
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    HeartbeatMeta,
    LaneUsage,
    decode_close,
)

pytestmark = pytest.mark.system
RANDOM = random.Random(1)


def test_fault_is_loaded_forwarded_and_answered(daemon: Daemon) -> None:
    serve(daemon)


def test_frames_reach_the_kernel_and_come_back_untouched(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    tensor = RANDOM.randbytes(3_000_000)
    caller.send(encode(Kind.CALL, 11, handle, 5_000_000, b"\x81\xa1x\x01", [tensor, b""]))
    route, frames = kernel.receive_call()
    assert int.from_bytes(route[:8], "little") == container
    assert frames[1:] == [b"\x81\xa1x\x01", tensor, b""]
    kernel.send([route, pack_header(Kind.REPLY, 0, 1, 11, meta_nbytes=1), b"\x80", tensor])
    assert caller.receive()[1:] == [b"\x80", tensor]


def test_many_callers_get_their_own_answers(daemon: Daemon) -> None:
    _, kernel, handle, _ = serve(daemon)
    callers = [daemon.caller() for _ in range(5)]
    for round_number in range(40):
        for number, caller in enumerate(callers):
            caller.send(
                encode(Kind.CALL, round_number, handle, 5_000_000, b"\x80", [b"%d-%d" % (number, round_number)])
            )
    for _ in range(200):
        route, frames = kernel.receive_call()
        header = unpack_header(frames[0])
        kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, header.request_id) + frames[0][64:]])
    for number, caller in enumerate(callers):
        answers = sorted(caller.receive()[0][40:] for _ in range(40))
        assert answers == sorted(b"%d-%d" % (number, round_number) for round_number in range(40))


def test_call_ends_at_its_deadline_when_the_kernel_says_nothing(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    caller.send(encode(Kind.CALL, 11, handle, 200_000, b"\x80"))
    kernel.receive_call()
    (frame,) = caller.receive()
    assert decode_error(frame[40:]).code == "DeadlineExceeded"
    _, frames = kernel.receive_call()
    assert unpack_header(frames[0]).kind is Kind.CANCEL


def test_kernel_that_disconnects_loses_its_calls(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    caller.send(encode(Kind.CALL, 11, handle, 8_000_000, b"\x80"))
    kernel.receive_call()
    kernel.socket.close(linger=0)
    assert decode_error(caller.receive()[0][40:]).code == "WorkerLost"


def test_call_after_the_end_of_a_kernel_is_a_fault_that_the_next_kernel_serves(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    before = daemon.descriptors()
    kernel.socket.close(linger=0)
    tensor = RANDOM.randbytes(100_000)
    daemon.await_descriptors(fewer_than=before)  # the switchboard's socket has seen it; nothing else tells
    caller.send(encode(Kind.CALL, 11, handle, 8_000_000, b"\x80", [tensor]))
    fresh = daemon.kernel(boot="b2")
    create = msgspec.msgpack.decode(fresh.receive_control(Kind.CREATE), type=CreateMeta)
    assert create.container != container
    fresh.send_control(Kind.EVENT, ContainerEvent(create.container, "ready", pid=2))
    _, frames = fresh.receive_call()
    assert frames[1:] == [b"\x80", tensor]


def test_call_that_a_kernel_hands_back_goes_to_a_fresh_container(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    tensor = RANDOM.randbytes(100_000)
    caller.send(encode(Kind.CALL, 11, handle, 8_000_000, b"\x80", [tensor]))
    route, frames = kernel.receive_call()
    kernel.send([route, *frames])
    create = msgspec.msgpack.decode(kernel.receive_control(Kind.CREATE), type=CreateMeta)
    assert create.container != container
    kernel.send_control(Kind.EVENT, ContainerEvent(container, "gone", cause="crashed", reason="killed by SIGKILL"))
    kernel.send_control(Kind.EVENT, ContainerEvent(create.container, "ready", pid=2))
    route, frames = kernel.receive_call()
    assert int.from_bytes(route[:8], "little") == create.container
    assert frames[1:] == [b"\x80", tensor]


def test_lease_is_granted_by_the_kernel_and_costs_no_hit(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    caller.send(encode(Kind.LEASE, 11, handle, 2_000_000, encode_meta(LeaseMeta("boot-id", 7, half_mb=16))))
    route, (frame,) = kernel.receive_call()
    header, order = unpack_header(frame), decode_lease_order(frame[40:])
    assert int.from_bytes(route[:8], "little") == container
    assert (header.kind, header.request_id, header.handle) == (Kind.LEASE, 11, handle)
    assert 0 < header.budget_us <= 2_000_000
    assert order == LeaseOrderMeta(1, container, handle, "default/s", 16, pid=7)
    leased = LeasedMeta("/run/lanes.sock", b"t" * 32, container)
    kernel.send([route, *encode(Kind.REPLY, 11, 0, 0, encode_meta(leased))])
    (frame,) = caller.receive()
    assert (unpack_header(frame).kind, decode_leased(frame[40:])) == (Kind.REPLY, leased)
    assert [row["hits"] for row in caller.ask("ps")["rows"]] == [1]


def test_lease_that_no_kernel_answers_ends(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    caller.send(encode(Kind.LEASE, 11, handle, 100_000, encode_meta(LeaseMeta("boot-id"))))
    route, _ = kernel.receive_call()
    assert decode_error(caller.receive()[0][40:]).code == "DeadlineExceeded"
    kernel.send([route, *encode(Kind.REPLY, 11, 0, 0, encode_meta(LeasedMeta("/late", b"t", 1)))])
    kernel.send_control(Kind.HEARTBEAT, HeartbeatMeta("n1", "b1"))
    kernel.receive_control(Kind.HEARTBEAT)
    assert caller.ask("status")["nodes"] == 1  # and no late answer came before this one


def test_container_is_drained_of_lanes_and_calls_before_it_is_closed(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    caller.send(encode(Kind.CALL, 11, handle, 8_000_000, b"\x80"))
    route, _ = kernel.receive_call()
    operator = daemon.caller()
    (row,) = operator.ask("ps")["rows"]
    operator.ask("evict", container=row["id"])
    drain = decode_drain(kernel.receive_control(Kind.DRAIN))
    assert (drain.epoch, drain.container) == (1, container)
    kernel.send_control(Kind.EVENT, ContainerEvent(container, "drained"))
    assert [row["state"] for row in operator.ask("ps")["rows"]] == ["draining"]
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, 11)])
    assert unpack_header(caller.receive()[0]).kind is Kind.REPLY
    close = decode_close(kernel.receive_control(Kind.CLOSE))
    assert close.container == container


def test_calls_in_lanes_are_seen_after_a_heartbeat(daemon: Daemon) -> None:
    caller, kernel, handle, container = serve(daemon)
    report = ContainerReport(container, "m", "1", "ready", lanes=2, lane_usage=[LaneUsage(handle, 40, 1, 2_500_000, 0)])
    kernel.send_control(Kind.HEARTBEAT, HeartbeatMeta("n1", "b1", containers=[report]))
    kernel.receive_control(Kind.HEARTBEAT)
    (service,), (row,) = caller.ask("services")["rows"], caller.ask("ps")["rows"]
    used = service["usage"]
    assert (used["calls"], used["errors"], used["busy_s"]) == (41, 1, 2.5)
    assert (row["hits"], row["lanes"]) == (41, 2)
