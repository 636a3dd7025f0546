"""The switchboard daemon as a process, with callers and kernels played by plain sockets."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

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
from huterox_wire.meta import AdminMeta, OpenMeta, decode_admin_reply, decode_error, encode_meta
from huterox_wire.nodes import (
    Capacity,
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    HeartbeatMeta,
    LaneUsage,
    RegisterMeta,
    decode_close,
)

pytestmark = pytest.mark.system
TIMEOUT_MS = 10_000
RANDOM = random.Random(1)
MIB = 2**20
CALLER_NBYTES_MAX = 8 * MIB


class Daemon:
    """A running connector in a folder of its own. Its kernels, played by the tests, do not beat: it is patient."""

    def __init__(self, folder: Path, descriptors_max: int | None = None) -> None:
        self._descriptors_max = descriptors_max
        core = {"node_suspect_s": 60.0, "node_timeout_s": 6.0}
        self.folder = folder
        self.front = f"ipc://{folder}/front.ipc"
        self.back = f"ipc://{folder}/back.ipc"
        lines = [f'front = "{self.front}"', f'back = "{self.back}"', f'store = "{folder}/store.db"']
        lines += [f"caller_nbytes_max = {CALLER_NBYTES_MAX}", "[core]"]
        (folder / "connector.toml").write_text("\n".join(lines + [f"{k} = {v}" for k, v in core.items()]) + "\n")
        self.process: subprocess.Popen[bytes]
        self.peers: list[Peer] = []
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "huterox_connector", "--config", str(self.folder / "connector.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=self._limit)

    def _limit(self) -> None:
        if (limit := self._descriptors_max) is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit // 2, limit))

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=15)

    def descriptors(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def await_descriptors(self, *, fewer_than: int) -> None:
        until_s = time.monotonic() + 20.0
        while self.descriptors() >= fewer_than:
            assert time.monotonic() < until_s, "a connection did not end"
            time.sleep(0.01)
        time.sleep(0.05)  # the descriptor goes first, then its pipe

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for peer in self.peers:
            peer.socket.close(linger=0)
        self.context.term()

    def caller(self) -> "Peer":
        return self.peer(self.front)

    def sleeper(self) -> "Peer":
        """A caller for whom ZeroMQ reads nothing ahead."""
        return self.peer(self.front, unread_max=1)

    def peer(self, endpoint: str, identity: bytes = b"", unread_max: int = 1000) -> "Peer":
        self.peers.append(Peer(self.context, endpoint, identity, unread_max))
        return self.peers[-1]

    def kernel(self, name: str = "n1", boot: str = "b1") -> "Peer":
        peer = self.peer(self.back, f"{name}:{boot}".encode())
        meta = RegisterMeta(name, boot, os.getpid(), "host", Capacity(4, 2**30), host_id="boot-id")
        peer.send_control(Kind.REGISTER, meta)
        return peer


class Peer:
    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, identity: bytes, unread_max: int
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RCVHWM, unread_max)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)

    def send(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def send_control(self, kind: Kind, meta: msgspec.Struct) -> None:
        self.send([b"", *encode(kind, 0, 0, 0, encode_meta(meta))])

    def receive(self) -> list[bytes]:
        return self.socket.recv_multipart()

    def receive_control(self, kind: Kind) -> bytes:
        """The meta of the next control message of this kind; others are passed over."""
        while True:
            route, *frames = self.receive()
            if route == b"" and unpack_header(frames[0]).kind is kind:
                return frames[0][40:]

    def receive_call(self) -> tuple[bytes, list[bytes]]:
        while True:
            route, *frames = self.receive()
            if route:
                return route, frames

    def ask(self, verb: str, **args: Any) -> Any:
        self.send(encode(Kind.ADMIN, 1, 0, 0, encode_meta(AdminMeta(verb, args))))
        (frame,) = self.receive()
        header = unpack_header(frame)
        if header.kind is Kind.ERROR:
            raise decode_error(frame[40:])
        return decode_admin_reply(frame[40:]).result

    def open(self, name: str) -> int:
        self.send(encode(Kind.OPEN, 2, 0, 0, encode_meta(OpenMeta(name))))
        return unpack_header(self.receive()[0]).handle


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(Daemon(tmp_path)) as daemon:
        yield daemon


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    try:
        yield daemon
    finally:
        daemon.close()


def serve(daemon: Daemon) -> tuple[Peer, Peer, int, int]:
    """A caller, a kernel, a handle and the id of the container that is ready behind it."""
    caller, kernel = daemon.caller(), daemon.kernel()
    caller.ask("deploy", model={"name": "m", "entry": "m.py:M"})
    caller.ask("create", name="s", model="m")
    handle = caller.open("s")
    caller.send(encode(Kind.CALL, 10, handle, 5_000_000, b"\x80"))
    create = msgspec.msgpack.decode(kernel.receive_control(Kind.CREATE), type=CreateMeta)
    kernel.send_control(Kind.EVENT, ContainerEvent(create.container, "ready", pid=1))
    route, frames = kernel.receive_call()
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, unpack_header(frames[0]).request_id)])
    assert unpack_header(caller.receive()[0]).request_id == 10
    return caller, kernel, handle, create.container


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


def test_more_connections_than_there_are_descriptors_end_nobody(tmp_path: Path) -> None:
    with running(Daemon(tmp_path, descriptors_max=256)) as daemon:
        caller, kernel, handle, _ = serve(daemon)
        front = Path(daemon.front.removeprefix("ipc://"))
        crowd: list[socket.socket] = []
        while front.exists():
            for _ in range(10):
                crowd.append(connected(front))
            assert len(crowd) < 400, "the switchboard lets everybody in"
            time.sleep(0.005)
        assert daemon.process.poll() is None
        assert len(crowd) > 60, "more than the usual half of its descriptors are used"
        caller.send(encode(Kind.CALL, 11, handle, 5_000_000, b"\x80"))  # who is there stays
        route, _ = kernel.receive_call()
        kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, 11)])
        assert unpack_header(caller.receive()[0]).request_id == 11
        late = daemon.caller()  # it tries again until there is room
        assert daemon.kernel("n2").receive_control(Kind.REGISTER)
        for each in crowd:
            each.close()
        assert late.ask("status")["nodes"] == 2


def connected(path: Path) -> socket.socket:
    """A connection of somebody who says nothing; or who was not let in any more."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    with suppress(OSError):
        sock.connect(str(path))
    return sock


def resident_nbytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_is_there_after_a_restart(daemon: Daemon, how: int) -> None:
    _, _, handle, _ = serve(daemon)
    code = daemon.stop(how)
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    daemon.start()
    again = daemon.caller()
    status = again.ask("status")
    assert (status["epoch"], status["models"], status["services"]) == (2, 1, 1)
    assert again.open("s") == handle
    if how == signal.SIGTERM:  # a crash may take the last events with it, never desired state
        kinds = {event["kind"] for event in again.ask("events")["events"]}
        assert {"node.registered", "deploy", "create", "load", "ready"} <= kinds


def test_second_daemon_on_the_same_store_ends_with_one_clear_line(daemon: Daemon) -> None:
    daemon.caller().ask("status")
    command = [sys.executable, "-m", "huterox_connector", "--config", str(daemon.folder / "connector.toml")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode == 2
    assert second.stderr.strip().endswith("is in use by another switchboard")
    daemon.caller().ask("status")


def test_sockets_that_were_removed_are_made_again_and_nobody_loses_a_connection(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    for name in ("n2", "n3"):  # what was made again is watched, too
        for path in ("front.ipc", "back.ipc"):
            (daemon.folder / path).unlink()
        assert daemon.caller().ask("status")
        assert daemon.kernel(name).receive_control(Kind.REGISTER)
    caller.send(encode(Kind.CALL, 11, handle, 5_000_000, b"\x80"))
    route, frames = kernel.receive_call()
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, unpack_header(frames[0]).request_id)])
    assert unpack_header(caller.receive()[0]).request_id == 11
    log = (daemon.folder / "log").read_text()
    assert "front.ipc was removed; it was made again, for callers" in log
    assert "back.ipc was removed; it was made again, for kernels" in log


def test_a_store_that_was_removed_is_told_and_keeps_a_second_daemon_from_the_sockets(daemon: Daemon) -> None:
    caller = daemon.caller()
    assert caller.ask("status")
    (daemon.folder / "store.db").unlink()
    wait_for_log(daemon, "store.db was removed or replaced")
    command = [sys.executable, "-m", "huterox_connector", "--config", str(daemon.folder / "connector.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "another process listens at" in ended.stderr
    assert caller.ask("status")
    assert daemon.caller().ask("status")


def wait_for_log(daemon: Daemon, text: str) -> None:
    deadline_s = time.monotonic() + 30
    while text not in (daemon.folder / "log").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def wakes(pid: int) -> int:
    """How often the threads of a process have gone to sleep."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)


def test_an_idle_switchboard_sleeps(daemon: Daemon) -> None:
    """On a slow machine it wakes less often, never more."""
    serve(daemon)
    deadline_s = time.monotonic() + 30
    rate = float("inf")
    while rate > 8.0:  # a second or two after the last call
        assert time.monotonic() < deadline_s, f"{rate:.1f} wakes a second"
        begun_s, before = time.monotonic(), wakes(daemon.process.pid)
        time.sleep(1.0)
        rate = (wakes(daemon.process.pid) - before) / (time.monotonic() - begun_s)


def test_a_switchboard_ends_without_a_word_of_trouble(daemon: Daemon) -> None:
    serve(daemon)
    assert daemon.stop() == 0
    assert "Traceback" not in (daemon.folder / "log").read_text()
