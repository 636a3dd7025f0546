"""Ends in several processes: honest ones, one that is killed, and one that scribbles over everything all the time."""

import random
import signal
import socket
import subprocess
import sys

import pytest
from tests.conformance.lane.lanes import check_slab, lane_of
from tests.conformance.lane.liars import OVER, HonestCaller, HonestContainer
from tests.rounds import seeds
from tests.shm.conftest import SMALL

from huterox_shm.errors import LaneDead
from huterox_shm.handover import send_descriptors
from huterox_shm.lane import CallerEnd, ContainerEnd, create_lane
from huterox_shm.layout import plan

pytestmark = pytest.mark.system

ECHO = """
import os, signal, socket, sys
from huterox_shm.errors import LaneDead
from huterox_shm.handover import receive_descriptors
from huterox_shm.lane import BEGUN, CALL, REPLY, REQUEST_RELEASED, ContainerEnd, LaneDescriptors

with socket.socket(fileno=int(sys.argv[1])) as sock:
    payload, fds = receive_descriptors(sock, 100, 3)
    assert payload == b"lane"
with ContainerEnd.attach(LaneDescriptors(*fds)) as container:
    try:
        while True:
            assert container.wait(30.0)
            for kind, _, call_id, offset, nbytes, _, _ in container.take():
                if kind != CALL:
                    continue
                container.header[BEGUN] = call_id
                if nbytes == 1:
                    container.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                out = container.claim(nbytes)
                container.write_view(out, nbytes)[:] = bytes(container.view(offset, nbytes))[::-1]
                container.publish_reply(REPLY, REQUEST_RELEASED, call_id, out, nbytes)
                container.count(1, 1)
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


def send(caller, payload):
    offset = caller.claim(len(payload))
    caller.write_view(offset, len(payload))[:] = payload
    return caller.publish_call(payload, offset, len(payload))


def test_two_processes_exchange_thousands_of_calls(echo):
    caller, process = echo
    chance = random.Random(1)
    waiting = [chance.randbytes(number % 3000 + 2) for number in range(4000)]
    answered = 0
    while answered < 4000:
        while waiting and len(caller.calls) < 32:
            send(caller, waiting.pop())
        caller.flush()
        assert caller.wait(20.0)
        for call, _, _, _, _, offset, nbytes in caller.take():
            assert bytes(caller.view(offset, nbytes)) == call[::-1]
            caller.release(offset)
            answered += 1
    assert caller.counters()[:4] == (4000, 4000, 0, 4000)
    assert caller.begun == 4000
    assert not caller.out
    check_slab(caller)
    caller.mark_dead()
    assert process.wait(20) == 0


def test_killed_container_leaves_word_of_what_it_has_begun(echo):
    caller, process = echo
    assert send(caller, bytes(100)) == 1
    caller.flush()
    assert caller.wait(20.0)
    assert [call_id for _, call_id, *_ in caller.take()] == [1]
    for payload in (bytes(1), bytes(100), bytes(100)):
        send(caller, payload)
    caller.flush()
    assert process.wait(20) == -signal.SIGKILL
    caller.mark_dead()
    with pytest.raises(LaneDead):
        caller.take()
    assert caller.begun == 2
    assert list(caller.calls) == [2, 3, 4]


SCRIBBLE = """
import mmap, os, random, sys, time
rings_end, seed, *fds = map(int, sys.argv[1:])
rng = random.Random(seed)
lanes = [(mmap.mmap(fds[at], rings_end), *fds[at + 1 : at + 3]) for at in range(0, len(fds), 3)]
print(flush=True)
while True:
    memory, *bells = rng.choice(lanes)
    at = rng.choice([rng.randrange(4096, rings_end), rng.randrange(136, 4096)])  # all but the geometry and the state
    memory[at] = rng.choice([0, 1, 64, rng.randrange(256)])
    if rng.random() < 0.001:
        try:
            os.eventfd_write(rng.choice(bells), rng.choice([1, 1 << 32, 60]))
        except BlockingIOError:
            pass
    time.sleep(rng.choice([0.0, 0.0001]))
"""
LANES = 8


@pytest.mark.parametrize("seed", seeds(2, 50))
def test_ends_survive_a_third_process_that_scribbles_while_they_read(no_descriptor_leaks, seed):
    """What an end has checked is what it uses, whatever stands in the ring by then."""
    given = [create_lane(SMALL, 1) for _ in range(LANES)]
    fds = [fd for descriptors in given for fd in descriptors]
    arguments = [str(number) for number in (plan(*SMALL).rings_end, seed, *fds)]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIBBLE, *arguments], pass_fds=fds, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"\n"
        try:
            for number, descriptors in enumerate(given):
                live_at(descriptors, random.Random(f"{seed} {number}"))
        finally:
            process.kill()


def live_at(descriptors, rng):
    """Both ends do what honest ends do, until one of them has had enough."""
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        lane = lane_of(caller, container)
        users = [HonestCaller(lane, rng, can_wait=True), HonestContainer(lane, rng, can_wait=True)]
        try:
            for _ in range(3000):
                for user in users:
                    user.act()
        except OVER:
            pass
        for end in (caller, container):
            check_slab(end)
