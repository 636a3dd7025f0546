"""The hand-over of a lane: this side against a kernel's socket that misbehaves."""

import os
import socket
import time

import pytest
from tests.clients.lanes import SMALL, TOKEN, descriptor_count, eventually

from huterox.fetching import fetch_lane, host_id
from huterox_shm.handover import send_descriptors
from huterox_shm.lane import OPEN, CallerEnd, create_lane
from huterox_wire.errors import Busy, Fault, HuteroxError, Unavailable
from huterox_wire.leases import LaneGranted, LeasedMeta, encode_granted

GRANTED = encode_granted(LaneGranted(7, 1))


def test_a_granted_lane_comes_with_the_connection_that_vouches_for_it(kernel):
    before = descriptor_count()
    with fetch_lane(kernel.leased(), 5.0) as fetched:
        assert isinstance(fetched.end, CallerEnd)
        assert fetched.end.state == OPEN
        with pytest.raises(BlockingIOError):
            fetched.liveness.recv(1)
        assert not fetched.liveness.get_inheritable()
        kernel.die()
        assert fetched.liveness.recv(1) == b""
    kernel.lanes.pop().close()
    eventually(lambda: descriptor_count() == before)


def test_a_refusal_is_raised_as_the_kernel_sent_it(kernel):
    kernel.refuse_with(Busy("512 lanes are open", limit=512))
    before = descriptor_count()
    with pytest.raises(Busy, match="512 lanes") as caught:
        fetch_lane(kernel.leased(), 5.0)
    assert caught.value.details == {"limit": 512}
    kernel.die()
    eventually(lambda: descriptor_count() == before)


def test_a_socket_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match=r"none\.sock"):
        fetch_lane(LeasedMeta(str(tmp_path / "none.sock"), TOKEN, 7), 5.0)


def test_a_silent_kernel_is_waited_for_only_so_long(kernel):
    kernel.answer = lambda peer: None
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match="timed out"):
        fetch_lane(kernel.leased(), 0.2)
    assert time.monotonic() - started_s < 5.0


def test_a_kernel_that_accepts_nobody_is_waited_for_only_so_long(tmp_path):
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(path)
            with pytest.raises(Unavailable):
                fetch_lane(LeasedMeta(path, TOKEN, 7), 0.2)


def test_a_kernel_that_hangs_up_is_unavailable(kernel):
    kernel.answer = lambda peer: peer.close()
    with pytest.raises(Unavailable):
        fetch_lane(kernel.leased(), 5.0)


@pytest.mark.parametrize("packet", [b"x", b"+\xc1", b"-\xc1", b"+"])
def test_nonsense_instead_of_a_grant_is_an_error(kernel, packet):
    kernel.answer = lambda peer: peer.send(packet)
    with pytest.raises(HuteroxError):
        fetch_lane(kernel.leased(), 5.0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_descriptors_is_an_error_and_none_of_them_leaks(kernel, count):
    def give(peer: socket.socket) -> None:
        fds = [os.eventfd(0) for _ in range(count)]
        send_descriptors(peer, GRANTED, fds)
        for fd in fds:
            os.close(fd)

    kernel.answer = give
    before = descriptor_count()
    with pytest.raises((Fault, Unavailable)):
        fetch_lane(kernel.leased(), 5.0)
    kernel.die()
    eventually(lambda: descriptor_count() == before)


def test_descriptors_that_are_no_lane_are_an_error_and_closed(kernel):
    def give(peer: socket.socket) -> None:
        fds = [os.eventfd(0) for _ in range(3)]
        send_descriptors(peer, GRANTED, fds)
        for fd in fds:
            os.close(fd)

    kernel.answer = give
    before = descriptor_count()
    with pytest.raises(Unavailable, match="no lane"):
        fetch_lane(kernel.leased(), 5.0)
    kernel.die()
    eventually(lambda: descriptor_count() == before)


def test_a_lane_of_another_generation_than_was_granted_is_refused(kernel):
    def give(peer: socket.socket) -> None:
        kernel.lanes.append(create_lane(SMALL, 3))
        send_descriptors(peer, GRANTED, kernel.lanes[-1])

    kernel.answer = give
    with pytest.raises(Unavailable, match="generation 3"):
        fetch_lane(kernel.leased(), 5.0)


def test_a_lane_without_descriptors_is_a_fault(kernel):
    kernel.answer = lambda peer: peer.send(GRANTED)
    with pytest.raises(Fault, match="0 descriptors"):
        fetch_lane(kernel.leased(), 5.0)


def test_a_forked_child_closes_the_connection_that_vouches_for_its_parent(kernel):
    with fetch_lane(kernel.leased(), 5.0) as fetched:
        fd = fetched.liveness.fileno()
        child = os.fork()
        if child == 0:
            try:
                os.fstat(fd)
                os._exit(1)
            except OSError:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.fstat(fd)


def test_the_host_is_told_by_its_boot():
    assert len(host_id()) == 36
