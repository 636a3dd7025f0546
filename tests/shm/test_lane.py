"""Lanes of the operating system: descriptors, memory, waiting, and ends in two processes."""

import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from huterox_shm import lane as lane_module
from huterox_shm.errors import HandoverError, LaneDead, LaneFull, PeerProtocolError
from huterox_shm.handover import send_descriptors
from huterox_shm.lane import (
    DEAD,
    DRAINING,
    REPLY,
    CallerEnd,
    ContainerEnd,
    LaneConfig,
    LaneDescriptors,
    LaneWatch,
    create_lane,
)
from huterox_shm.segment import create_memfd
from huterox_shm.tensor import array_over, block_array, on_last_view_gone

SMALL = LaneConfig(128, 1 << 20, 1 << 20)
MIB = 1 << 20


@pytest.fixture
def descriptors(no_descriptor_leaks):
    """Of a small lane; whoever takes them over closes them."""
    return create_lane(SMALL, 7)


@pytest.fixture
def ends(descriptors):
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        yield caller, container


def call(caller, container, call_id, request, reply):
    offset = caller.claim(len(request))
    caller.write_view(offset, len(request))[:] = request
    caller.publish_call(call_id, offset, len(request))
    caller.flush()
    (taken,) = container.take()
    assert bytes(container.view(taken.offset, taken.nbytes)) == request
    offset = container.claim(len(reply))
    container.write_view(offset, len(reply))[:] = reply
    container.publish_reply(REPLY, call_id, offset, len(reply), request_released=True)
    container.flush()
    (taken,) = caller.take()
    return taken


def test_ends_know_their_generation_and_sizes(ends):
    for end in ends:
        assert end.generation == 7
        assert end.nbytes_max == MIB
        assert end.layout.ring_entries == 128


def test_many_lanes_come_and_go_without_a_descriptor_left(fds):
    before = fds()
    for generation in range(50):
        descriptors = create_lane(SMALL, generation)
        with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
            caller.release(call(caller, container, 1, b"a", b"b").offset)
    assert fds() == before


def test_default_lane_is_large_and_costs_little_while_idle(no_descriptor_leaks):
    descriptors = create_lane(LaneConfig(), 1)
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        assert caller.nbytes_max == container.nbytes_max == 512 * MIB
        call(caller, container, 1, b"a", b"b")
        assert os.fstat(caller._memory.fd).st_blocks * 512 < MIB


def test_large_block_takes_pages_and_trim_gives_them_back(no_descriptor_leaks):
    descriptors = create_lane(LaneConfig(), 1)
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        rings = os.fstat(caller._memory.fd).st_blocks * 512
        payload = np.arange(5 * MIB, dtype=np.uint8).tobytes()
        call(caller, container, 1, payload, b"b")
        used = os.fstat(caller._memory.fd).st_blocks * 512
        assert 5 * MIB < used < 6 * MIB
        assert caller.trim() == 5 * MIB
        assert os.fstat(caller._memory.fd).st_blocks * 512 == used - 5 * MIB > rings
        call(caller, container, 2, payload, b"b")


def test_system_without_memory_is_a_full_lane_and_the_lane_goes_on(ends, monkeypatch):
    caller, container = ends

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(LaneFull):
            caller.claim(1000)
    call(caller, container, 1, bytes(1000), b"b")


@pytest.mark.parametrize("failing", ["memfd_create", "ftruncate", "eventfd", "posix_fallocate"])
def test_lane_that_cannot_be_made_leaves_nothing(no_descriptor_leaks, monkeypatch, failing):
    def refuse(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises((OSError, LaneFull)):
        create_lane(SMALL, 1)


def test_lane_of_odd_sizes_is_refused(no_descriptor_leaks):
    with pytest.raises(ValueError, match="power of two"):
        create_lane(LaneConfig(ring_entries=1000), 1)


def test_second_descriptor_out_of_reach_leaves_no_copy(descriptors, monkeypatch, fds):
    before = fds()
    real_dup = os.dup

    def dup(fd):
        if fd == descriptors.reply_doorbell:
            raise OSError(errno.EMFILE, "Too many open files")
        return real_dup(fd)

    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(OSError, match="Too many"):
        descriptors.duplicate()
    assert fds() == before
    descriptors.close()


ATTACHERS = pytest.mark.parametrize("attach", [CallerEnd.attach, ContainerEnd.attach, LaneWatch.attach])


@ATTACHERS
def test_foreign_segment_is_refused_and_all_descriptors_closed(no_descriptor_leaks, attach):
    for nbytes in (1, 4096, MIB):
        with pytest.raises((PeerProtocolError, HandoverError, ValueError)):
            attach(LaneDescriptors(create_memfd(nbytes), os.eventfd(0), os.eventfd(0)))


@ATTACHERS
def test_descriptors_in_the_wrong_order_are_refused_and_closed(descriptors, attach):
    memfd, request_doorbell, reply_doorbell = descriptors
    with pytest.raises(HandoverError):
        attach(LaneDescriptors(request_doorbell, memfd, reply_doorbell))


@ATTACHERS
def test_header_of_another_size_is_refused_and_all_descriptors_closed(fds, attach):
    before = fds()
    descriptors = create_lane(SMALL, 7)
    with mmap.mmap(descriptors.memfd, 4096) as header:
        header[32:40] = (2 * MIB).to_bytes(8, "little")
    with pytest.raises(PeerProtocolError) as refused:
        attach(descriptors)
    assert fds() == before  # though the traceback still lives
    assert refused.value


def test_view_outlives_both_ends(fds):
    before = fds()
    descriptors = create_lane(SMALL, 1)
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        reply = call(caller, container, 1, b"a", b"still here")
        view = caller.view(reply.offset, reply.nbytes)
    assert bytes(view) == b"still here"
    del view
    assert fds() == before


def test_reply_block_is_released_when_its_last_array_is_gone(ends):
    caller, container = ends
    reply = call(caller, container, 1, b"a", np.arange(4, dtype="<f4").tobytes())
    block = block_array(caller.view(reply.offset, reply.nbytes))
    on_last_view_gone(block, caller.release, reply.offset)
    tail = array_over(block, "<f4", (4,))[2:]
    del block
    assert tail.tolist() == [2.0, 3.0]
    assert caller.releases_pending == 0
    del tail
    assert caller.releases_pending == 1
    caller.flush_releases()
    container.take()
    assert container.slab_stats().lent_count == 0


def test_array_that_outlives_its_lane_ends_quietly(descriptors):
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        reply = call(caller, container, 1, b"a", b"bytes")
        block = block_array(caller.view(reply.offset, reply.nbytes))
        on_last_view_gone(block, caller.release, reply.offset)
        array = array_over(block, "u1", (5,))
        del block
    assert bytes(array) == b"bytes"
    del array, caller, container


def test_watch_reads_counters_and_wakes_both_ends_to_the_death(ends):
    caller, container = ends
    watched = LaneDescriptors(os.dup(caller._memory.fd), os.dup(container.fileno()), os.dup(caller.fileno()))
    with LaneWatch.attach(watched) as watch:
        assert watch.generation == 7
        call(caller, container, 1, b"a", b"b")
        assert watch.counters() == caller.counters()
        watch.drain()
        assert (watch.state, caller.state) == (DRAINING, DRAINING)
        assert caller.wait(10) and container.wait(10)
        assert (caller.take(), container.take()) == ([], [])
        watch.mark_dead()
        watch.drain()
        assert watch.state == DEAD
        for end in ends:
            assert end.wait(10)
            with pytest.raises(LaneDead):
                end.take()
    watch.close()
    watch.mark_dead()
    watch.drain()
    assert watch.state == DEAD
    with pytest.raises(LaneDead):
        watch.counters()


def test_wait_ends_with_a_doorbell_or_with_its_time(ends):
    caller, container = ends
    assert not caller.wait(0.0)
    assert not caller.wait(-1.0)
    thread = threading.Thread(target=container._peer_bell.ring, args=(1 << 32,))
    thread.start()
    assert caller.wait(10.0)
    thread.join()


def test_wait_tells_pending_releases_first(ends):
    caller, container = ends
    caller.release(call(caller, container, 1, b"a", b"b").offset)
    assert not caller.wait(0.0)
    container.take()
    assert container.slab_stats().lent_count == 0


def fill_replies(caller, container):
    """Answer a call with all of the reply half; returns the reply that the caller has taken."""
    return call(caller, container, 1, b"a", bytes(container.nbytes_max))


def test_container_without_room_goes_on_when_the_caller_releases(ends):
    caller, container = ends
    reply = fill_replies(caller, container)
    with pytest.raises(LaneFull):
        container.claim(1)
    assert not container.wait_for_room(0.0)

    def release():
        caller.release(reply.offset)
        caller.flush_releases()

    thread = threading.Thread(target=release)
    thread.start()
    assert container.wait_for_room(10.0)
    thread.join()
    container.claim(container.nbytes_max)


def test_requests_that_come_while_a_container_waits_for_room_are_kept(ends):
    caller, container = ends
    reply = fill_replies(caller, container)
    for call_id, acknowledges in ((2, True), (3, False)):
        caller.publish_call(call_id, caller.claim(1), 1)
        caller.flush()
        assert container.wait_for_room(0.0) is acknowledges
    assert container.wait(10.0)  # the doorbell stays readable for them
    caller.release(reply.offset)
    caller.publish_call(4, caller.claim(1), 1)
    caller.flush()
    assert container.wait_for_room(10.0)
    caller.publish_call(5, caller.claim(1), 1)
    caller.flush()
    assert container.wait(10.0)
    assert [request.call_id for request in container.take()] == [2, 3, 4, 5]
    assert container.take() == []


def test_dead_lane_ends_the_wait_for_room(ends):
    caller, container = ends
    fill_replies(caller, container)
    caller.mark_dead()
    with pytest.raises(LaneDead):
        container.wait_for_room(10.0)


ECHO = """
import socket, sys
from huterox_shm.errors import LaneDead
from huterox_shm.handover import receive_descriptors
from huterox_shm.lane import REPLY, ContainerEnd, LaneDescriptors

with socket.socket(fileno=int(sys.argv[1])) as sock:
    payload, fds = receive_descriptors(sock, 100, 3)
    assert payload == b"lane"
with ContainerEnd.attach(LaneDescriptors(*fds)) as container:
    container.set_ready()
    try:
        while True:
            assert container.wait(30.0)
            for _, call_id, offset, nbytes, _, _ in container.take():
                if nbytes == 1:
                    container.begin(call_id)
                    container.flush()
                    import signal, os
                    os.kill(os.getpid(), signal.SIGKILL)
                out = container.claim(nbytes)
                container.write_view(out, nbytes)[:] = bytes(container.view(offset, nbytes))[::-1]
                container.publish_reply(REPLY, call_id, out, nbytes, request_released=True)
                container.end(call_id, 1, False)
            container.flush()
    except LaneDead:
        pass
"""


@pytest.fixture
def echo(descriptors):
    """A caller whose container reverses bytes in another process, and dies of a call of one byte."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, CallerEnd.attach(descriptors.duplicate()) as caller:
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", ECHO, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        send_descriptors(ours, b"lane", descriptors)
        descriptors.close()
        yield caller, process
        caller.mark_dead()
        process.wait(20)


@pytest.mark.system
def test_two_processes_exchange_thousands_of_calls(echo):
    caller, process = echo
    payloads = {call_id: os.urandom(call_id % 3000 + 2) for call_id in range(1, 4001)}
    waiting = dict(payloads)
    to_send = iter(payloads.items())
    in_flight = 0
    while waiting:
        while in_flight < 32 and (item := next(to_send, None)):
            call_id, payload = item
            offset = caller.claim(len(payload))
            caller.write_view(offset, len(payload))[:] = payload
            caller.publish_call(call_id, offset, len(payload))
            in_flight += 1
        caller.flush()
        assert caller.wait(20.0)
        for reply in caller.take():
            assert bytes(caller.view(reply.offset, reply.nbytes)) == waiting.pop(reply.call_id)[::-1]
            caller.release(reply.offset)
            in_flight -= 1
    assert caller.counters().calls_done == 4000
    assert caller.slab_stats().lent_count == 0
    caller.mark_dead()
    assert process.wait(20) == 0


@pytest.mark.system
def test_killed_container_leaves_its_call_in_the_header(echo):
    caller, process = echo
    for call_id, nbytes in ((1, 100), (2, 1), (3, 100)):
        caller.publish_call(call_id, caller.claim(nbytes), nbytes)
        caller.flush()
        if call_id == 1:
            assert caller.wait(20.0)
            (reply,) = caller.take()
            assert reply.call_id == 1
    assert process.wait(20) == -signal.SIGKILL
    caller.mark_dead()
    with pytest.raises(LaneDead):
        caller.take()
    assert caller.counters().current_call == 2
    taken = dict(caller.in_flight())
    assert taken[2] is True


def test_public_names_of_the_module_are_all_there():
    assert all(hasattr(lane_module, name) for name in lane_module.__all__)
