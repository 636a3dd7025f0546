"""Lanes of callers, through a real kernel: fetched, used, counted, drained."""

import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from huterox_shm.errors import LaneDead, LaneTooSmall
from huterox_shm.lane import DEAD, DRAINING, OPEN
from huterox_wire.errors import Busy, HuteroxError, InvalidInput, ModelError, Unauthorized, Unavailable
from huterox_wire.leases import LeasedMeta, decode_granted_or_refused, encode_hello
from huterox_wire.meta import encode_meta
from huterox_wire.nodes import ContainerReport, LaneUsage

from .caller import Caller, connect, fetch
from .conftest import SERVICE, Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2
OTHER = 1 << 32 | 8


def counts_of(report: ContainerReport) -> dict[int, tuple[int, int]]:
    """Calls and errors by service."""
    return {usage.service: (usage.calls, usage.errors) for usage in report.lane_usage}


# Fetching.


def test_a_call_goes_through_a_lane_of_its_callers_own(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = switchboard.caller(A)
    assert caller.granted.container == A
    assert caller.end.generation == caller.granted.generation
    assert caller.result("plus", x=np.arange(3), by=5)["result"].tolist() == [5, 6, 7]
    report = switchboard.heartbeat_of(A, lambda r: r.requests == 1)
    assert (report.lanes, report.lane_calls, report.errors) == (1, 0, 0)
    (usage,) = report.lane_usage
    assert (usage.service, usage.calls, usage.errors) == (SERVICE, 1, 0)
    assert 0 < usage.busy_us == report.busy_us
    assert usage.idle_us < 60_000_000


def test_routed_calls_and_calls_of_several_lanes_are_served_together(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    callers = [switchboard.caller(A, SERVICE + index % 2) for index in range(5)]
    routed = [switchboard.call(A, "plus", x=np.full(3, 100 + index)) for index in range(20)]
    sent = [(caller, index, caller.send("plus", x=np.full(3, index))) for index in range(50) for caller in callers]
    for caller, index, call_id in sent:
        assert caller.answer(call_id)["result"].tolist() == [index + 1] * 3
    for index, request_id in enumerate(routed):
        assert switchboard.answer(request_id).values["result"].tolist() == [101 + index] * 3
    report = switchboard.heartbeat_of(A, lambda r: r.requests == 270)
    assert counts_of(report) == {SERVICE: (150, 0), SERVICE + 1: (100, 0)}


def test_a_large_tensor_and_a_stream_go_through_a_lane(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B, "plain.py:Slow")
    tensor = np.random.default_rng(7).integers(0, 256, 50_000_000, dtype=np.uint8)
    assert np.array_equal(switchboard.caller(A).result(x=tensor)["x"], tensor)
    caller = switchboard.caller(B)
    stream = caller.send("blocks", stream=True, parts=5, nbytes=200_000)
    caller.answer(stream)
    assert [int(values["result"][0]) for _, values in caller.answers[stream][:-1]] == [0, 1, 2, 3, 4]


def test_errors_come_back_through_the_lane_and_are_counted(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Faulty")
    caller = switchboard.caller(A)
    with pytest.raises(ModelError):
        caller.result()
    with pytest.raises(InvalidInput):
        caller.result(unknown=1)
    assert counts_of(switchboard.heartbeat_of(A, lambda r: r.requests == 2)) == {SERVICE: (2, 2)}


def test_a_caller_gets_the_sizes_that_it_asks_for_up_to_a_limit(switchboard: Switchboard) -> None:
    switchboard.start(lease_half_mb=2, lease_half_mb_max=8, lease_ring_entries=256)
    switchboard.created(A)
    layouts = [
        switchboard.caller(A, **sizes).end.layout
        for sizes in ({}, {"half_mb": 4, "ring_entries": 512}, {"half_mb": 4096})
    ]
    assert [(layout.request_half_nbytes >> 20, layout.ring_entries) for layout in layouts] == [
        (2, 256),
        (4, 512),
        (8, 256),
    ]


@pytest.mark.parametrize("ring_entries", [100, 64, 1000])
def test_a_lane_of_impossible_size_is_refused(switchboard: Switchboard, ring_entries: int) -> None:
    switchboard.start()
    switchboard.created(A)
    with pytest.raises(InvalidInput, match="power of two"):
        switchboard.lease(A, ring_entries=ring_entries)


def test_what_is_too_large_for_the_lane_is_told_to_the_caller(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    with pytest.raises(LaneTooSmall):
        switchboard.caller(A, half_mb=1).send(x=np.zeros(2 << 20, np.uint8))


# Who gets none.


def refusal(path: str, packet: bytes) -> HuteroxError:
    """What the kernel says to this hello."""
    with connect(path) as sock:
        sock.send(packet)
        with pytest.raises(HuteroxError) as caught:
            decode_granted_or_refused(sock.recv(1 << 16))
        assert sock.recv(1) == b""
    return caught.value


def test_a_token_is_good_once(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    leased = switchboard.lease(A)
    with fetch(leased) as caller:
        with pytest.raises(Unauthorized):
            fetch(leased)
        assert caller.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_token_that_is_old_or_forged_is_refused(switchboard: Switchboard) -> None:
    switchboard.start(lease_token_s=0.2)
    switchboard.created(A)
    leased = switchboard.lease(A)
    forged = leased.token[:-1] + bytes([leased.token[-1] ^ 1])
    assert isinstance(refusal(leased.path, encode_hello(forged)), Unauthorized)
    time.sleep(0.3)
    assert isinstance(refusal(leased.path, encode_hello(leased.token)), Unauthorized)
    assert switchboard.heartbeat_of(A, lambda r: r.state == "ready").lanes == 0


def test_a_token_dies_with_its_container_and_opens_no_other(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B)
    leased = switchboard.lease(A)
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    error = refusal(leased.path, encode_hello(leased.token))
    assert isinstance(error, Unavailable)
    assert error.details["reason"] == "absent"
    assert switchboard.heartbeat_of(B, lambda r: r.state == "ready").lanes == 0


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (b"\xc1 nonsense", InvalidInput),
        (encode_meta(LeasedMeta("/x", b"y", 1)), InvalidInput),
        (b"x" * 5000, HuteroxError),
        (b"\x82\xa7version\x63\xa5token\xc4\x01x", InvalidInput),
    ],
    ids=["nonsense", "another message", "too long", "another version"],
)
def test_a_hello_that_makes_no_sense_is_refused(
    switchboard: Switchboard, packet: bytes, error: type[Exception]
) -> None:
    switchboard.start()
    switchboard.created(A)
    assert isinstance(refusal(switchboard.lease(A).path, packet), error)
    assert switchboard.caller(A).result("plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_descriptors_that_come_with_a_hello_are_not_kept(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    leased = switchboard.lease(A)
    before = psutil.Process(process.pid).num_fds()
    with connect(leased.path) as sock:
        socket.send_fds(sock, [b"nonsense"], [0, 1, 2])
        assert sock.recv(1 << 16)[:1] == b"-"
    switchboard.until(lambda: psutil.Process(process.pid).num_fds() == before)


def test_a_hello_that_never_comes_ends_the_connection(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    with connect(switchboard.lease(A).path) as sock:
        assert sock.recv(1) == b""


def test_silent_connections_keep_nobody_out(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    path = switchboard.lease(A).path
    kernel = psutil.Process(process.pid)
    before = kernel.num_fds()
    silent = [connect(path) for _ in range(200)]
    assert switchboard.caller(A).result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert kernel.num_fds() < before + 64 + 16
    for sock in silent:
        assert sock.recv(1) == b""
        sock.close()


def test_a_caller_that_talks_after_its_hello_loses_its_lane(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = switchboard.caller(A)
    caller.sock.send(b"and another thing")
    with pytest.raises(LaneDead):
        caller.until(lambda: False)
    assert caller.has_ended(2.0)


def test_the_limit_of_lanes_is_told_and_a_lane_that_goes_makes_room(switchboard: Switchboard) -> None:
    switchboard.start(lease_lanes_max=2)
    switchboard.created(A)
    switchboard.created(B)
    late = switchboard.lease(B)
    callers = [switchboard.caller(A), switchboard.caller(B)]
    with pytest.raises(Busy) as caught:
        switchboard.lease(A)
    assert (caught.value.details["reason"], caught.value.details["limit"]) == ("full", 2)
    assert isinstance(refusal(late.path, encode_hello(late.token)), Busy)
    callers[0].close()
    switchboard.heartbeat_of(A, lambda r: r.lanes == 0)
    assert switchboard.caller(A).result("plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_kernel_without_lanes_refuses_them_and_has_no_socket(switchboard: Switchboard) -> None:
    switchboard.start(lease_lanes_max=0)
    switchboard.created(A)
    with pytest.raises(Unavailable) as caught:
        switchboard.lease(A)
    assert caught.value.details["reason"] == "off"
    assert not (switchboard.folder / "kernel" / "lanes.sock").exists()


def test_a_lease_of_an_old_epoch_or_for_another_container_is_refused(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, epoch=3)
    with pytest.raises(Unavailable, match="old epoch 2"):
        switchboard.lease(A, epoch=2)
    with pytest.raises(Unavailable) as caught:
        switchboard.lease(B, epoch=3)
    assert caught.value.details["reason"] == "absent"
    with pytest.raises(InvalidInput):
        switchboard.lease(A, epoch=3, by=B)


def test_a_container_that_loads_has_no_lanes_yet(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.create(A, "plain.py:NeverLoads")
    switchboard.event(A, "loading")
    with pytest.raises(Unavailable):
        switchboard.lease(A)


def test_the_registration_names_the_machine(switchboard: Switchboard) -> None:
    switchboard.start()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert switchboard.registrations[0].host_id == boot_id


# Counting.


def test_totals_are_exact_over_lanes_that_have_closed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    expected = {SERVICE: 0, OTHER: 0}
    for index in range(12):
        service = (SERVICE, OTHER)[index % 2]
        with switchboard.caller(A, service) as caller:
            for _ in range(index):
                caller.result(seconds=0.0)
        expected[service] += index
    switchboard.answer(switchboard.call(A, seconds=0.0))
    report = switchboard.heartbeat_of(A, lambda r: r.lanes == 0 and r.requests == 67)
    assert {service: calls for service, (calls, _) in counts_of(report).items()} == expected
    assert report.busy_us >= sum(usage.busy_us for usage in report.lane_usage)
    switchboard.tell_close(A)
    gone = switchboard.event(A, "gone")
    assert gone.requests == 67
    assert {usage.service: usage.calls for usage in gone.lane_usage} == expected


def test_a_slot_of_the_ledger_is_clean_when_it_is_used_again(switchboard: Switchboard) -> None:
    """More lanes than slots, one after another, and totals that never fall."""
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    for _ in range(520):
        with switchboard.caller(A, ring_entries=128) as caller:
            caller.result(seconds=0.0)
    calls = 0
    for beat in switchboard.heartbeats:
        for report in beat.containers:
            now = sum(usage.calls for usage in report.lane_usage)
            assert now >= calls
            calls = now
    assert counts_of(switchboard.heartbeat_of(A, lambda r: r.requests == 520)) == {SERVICE: (520, 0)}


def test_usage_tells_how_long_ago_the_last_call_was(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = switchboard.caller(A)
    caller.result("plus", x=np.zeros(1))
    first = switchboard.heartbeat_of(A, lambda r: r.lane_usage).lane_usage[0]
    later = switchboard.heartbeat_of(A, lambda r: r.lane_usage and r.lane_usage[0].idle_us > first.idle_us + 200_000)
    assert later.lane_usage[0] == LaneUsage(SERVICE, 1, 0, first.busy_us, later.lane_usage[0].idle_us)
    caller.result("plus", x=np.zeros(1))
    assert switchboard.heartbeat_of(A, lambda r: r.requests == 2).lane_usage[0].idle_us < later.lane_usage[0].idle_us


def test_calls_in_flight_in_lanes_are_told(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller(A)
    sent = [caller.send(seconds=2.0), caller.send(seconds=0.0)]
    report = switchboard.heartbeat_of(A, lambda r: r.lane_calls > 0)
    assert report.requests == 0  # none has been worked off
    for call_id in sent:
        caller.answer(call_id)
    assert switchboard.heartbeat_of(A, lambda r: r.lane_calls == 0).requests == 2


# Draining and closing.


def ended(caller: Caller) -> bool:
    """Is the lane over, now or soon?"""
    try:
        caller.until(lambda: False, timeout_s=5.0)
    except LaneDead:
        return caller.end.state == DEAD and caller.has_ended(2.0)
    return False


def test_a_container_without_lanes_is_drained_at_once_and_goes_on(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.tell_drain(A)
    switchboard.event(A, "drained")
    with pytest.raises(Unavailable) as caught:
        switchboard.lease(A)
    assert caught.value.details["reason"] == "draining"
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert switchboard.heartbeat_of(A, lambda r: r.state == "draining")


def test_idle_lanes_are_drained_and_their_callers_hear_of_it(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B)
    callers = [switchboard.caller(A) for _ in range(3)]
    other = switchboard.caller(B)
    switchboard.tell_drain(A)
    switchboard.event(A, "drained")
    assert all(ended(caller) for caller in callers)
    assert other.end.state == OPEN
    assert other.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_drain_finishes_what_is_in_the_lanes_and_nothing_else(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    busy, idle = switchboard.caller(A), switchboard.caller(A)
    go = switchboard.folder / "go"
    sent = [busy.send("held", go=str(go)) for _ in range(3)]
    switchboard.heartbeat_of(A, lambda r: r.lane_calls > 0)
    switchboard.tell_drain(A)
    busy.until(lambda: busy.end.state == DRAINING)
    with pytest.raises(LaneDead):
        busy.send(seconds=0.0)
    assert not [event for event in switchboard.events if event.what == "drained"]
    go.touch()
    for call_id in sent:
        assert busy.answer(call_id) == {"result": None}
    switchboard.event(A, "drained")
    assert ended(busy)
    assert ended(idle)
    assert busy.end.begun == 3
    report = switchboard.heartbeat_of(A, lambda r: r.lanes == 0)
    assert counts_of(report) == {SERVICE: (3, 0)}


def test_a_drain_that_comes_twice_is_answered_twice(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.caller(A)
    for count in (1, 2):
        switchboard.tell_drain(A)
        switchboard.until(lambda c=count: [e.what for e in switchboard.events].count("drained") == c)


def test_a_drain_of_what_is_not_here_says_so_and_an_old_one_is_ignored(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.tell_drain(B)
    gone = switchboard.event(B, "gone")
    assert (gone.cause, gone.reason) == ("closed", "it is not here")
    switchboard.created(A, epoch=3)
    caller = switchboard.caller(A, epoch=3)
    switchboard.tell_drain(A, epoch=2)
    assert caller.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert caller.end.state == OPEN


def test_a_token_that_is_out_when_a_drain_comes_is_refused(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    leased = switchboard.lease(A)
    switchboard.tell_drain(A)
    switchboard.event(A, "drained")
    error = refusal(leased.path, encode_hello(leased.token))
    assert isinstance(error, Unavailable)
    assert error.details["reason"] == "draining"


def test_close_finishes_what_is_in_the_lanes(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    callers = [switchboard.caller(A) for _ in range(3)]
    go = switchboard.folder / "go"
    sent = [(caller, caller.send("held", go=str(go))) for caller in callers for _ in range(3)]
    routed = switchboard.call(A, "held", go=str(go))
    switchboard.heartbeat_of(A, lambda r: r.lane_calls >= 1)
    switchboard.tell_close(A)
    go.touch()
    for caller, call_id in sent:
        assert caller.answer(call_id) == {"result": None}
    assert switchboard.answer(routed).values == {"result": None}
    gone = switchboard.event(A, "gone")
    assert (gone.cause, gone.reason, gone.requests) == ("closed", "evicted", 10)
    assert all(ended(caller) for caller in callers)


def test_close_kills_a_lane_call_after_its_grace(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller(A)
    caller.send(seconds=60.0)
    caller.send(seconds=0.0)
    caller.until(lambda: caller.end.begun == 1)
    switchboard.tell_close(A, grace_s=0.3)
    assert switchboard.event(A, "gone", timeout_s=5.0).cause == "hung"
    assert ended(caller)
    assert caller.end.begun == 1  # the second call has not been touched


def test_lanes_outlive_their_switchboard(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = switchboard.caller(A)
    switchboard.socket.close()
    assert caller.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    switchboard.bind()
    assert switchboard.heartbeat_of(A, lambda r: r.requests == 1).lanes == 1
