"""What waits for callers that do not read: bounded for each and for all, and given back to the byte."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from tests.rounds import seeds

from huterox_connector.shell.deliveries import GONE, MARK_NBYTES, SENT, STALLED, Deliveries

pytestmark = pytest.mark.system
CALLER_NBYTES_MAX = 16 * MARK_NBYTES
NBYTES_MAX = 64 * MARK_NBYTES
PART = bytes(MARK_NBYTES // 4)
BIG = bytes(3 * MARK_NBYTES)
SOON_S = 10.0
IN_SOCKETS = 2 * MARK_NBYTES
"""Of one caller: less than a mark, and what the system's own buffers hold, which nobody here counts."""


class Callers:
    """Callers by a unix socket. They read when they are told to, and ZeroMQ reads next to nothing ahead for them."""

    def __init__(self, folder: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoint = f"ipc://{folder}/front"
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.set_hwm(20_000)
        self._router.setsockopt(zmq.RCVTIMEO, int(SOON_S * 1000))
        self._router.bind(self._endpoint)
        self.sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self.deliveries = Deliveries(self._router, CALLER_NBYTES_MAX, NBYTES_MAX)

    def join(self, name: bytes) -> bytes:
        sock = self._context.socket(zmq.DEALER)
        sock.setsockopt(zmq.RCVHWM, 1)
        sock.setsockopt(zmq.RCVTIMEO, int(SOON_S * 1000))
        sock.setsockopt(zmq.IDENTITY, name)
        sock.connect(self._endpoint)
        sock.send(b"here")
        assert self._router.recv_multipart()[0] == name
        self.sockets[name] = sock
        return name

    def leave(self, name: bytes) -> None:
        self.sockets.pop(name).close(linger=0)

    def read(self, name: bytes) -> bytes:
        return self.sockets[name].recv()

    def read_all(self, name: bytes) -> int:
        """Read until nothing more comes for a while; how many messages."""
        count = 0
        while self.sockets[name].poll(100):
            self.sockets[name].recv()
            count += 1
        return count

    def fill(self, name: bytes, part: bytes = PART) -> int:
        """Send until no more is taken; how many bytes went."""
        nbytes = 0
        while self.deliveries.send(name, [part]) == SENT:
            nbytes += len(part)
            assert nbytes < 4 * NBYTES_MAX, "there is no bound"
        return nbytes

    def waiting(self) -> int:
        self._router.getsockopt(zmq.EVENTS)  # as a daemon does all the time: ZeroMQ hears of those that left
        self.deliveries.settle()
        return self.deliveries.nbytes

    def waiting_for(self, names: list[bytes]) -> int:
        self.waiting()
        return sum(self.deliveries._marked.get(name, 0) for name in names)

    def check_sums(self) -> None:
        """What is said to wait in all is the sum of what waits for each, and that the sum of its marks."""
        deliveries = self.deliveries
        by_marks = {name: sum(mark.nbytes for mark in marks) for name, marks in deliveries._marks.items()}
        assert deliveries._marked == by_marks
        assert deliveries.nbytes == sum(by_marks.values())

    def close(self) -> None:
        self._router.close(linger=0)  # first: libzmq may wait for ever where peers leave a moment before
        self._context.destroy(linger=0)


@pytest.fixture
def callers(tmp_path: Path) -> Iterator[Callers]:
    callers = Callers(tmp_path)
    yield callers
    callers.close()


def until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.005)


def test_one_that_does_not_read_has_no_more_than_its_own_bound_waiting(callers: Callers) -> None:
    nbytes = callers.fill(callers.join(b"asleep"))
    assert CALLER_NBYTES_MAX <= nbytes <= CALLER_NBYTES_MAX + IN_SOCKETS
    assert callers.deliveries.send(callers.join(b"other"), [PART]) == SENT


def test_what_waits_for_all_that_do_not_read_is_bounded(callers: Callers) -> None:
    names = [callers.join(b"asleep%d" % number) for number in range(60)]
    nbytes = 0
    for name in names:
        nbytes += callers.fill(name)
        assert callers.deliveries.nbytes <= NBYTES_MAX + len(names) * MARK_NBYTES
    assert nbytes >= NBYTES_MAX * 3 / 4
    assert nbytes <= NBYTES_MAX + len(names) * IN_SOCKETS
    callers.check_sums()


def test_newcomers_have_room_beside_those_that_came_first(callers: Callers) -> None:
    """Four could have all between them; each next one has still more than what goes to anybody."""
    early = [callers.fill(callers.join(b"early%d" % number)) for number in range(4)]
    late = [callers.fill(callers.join(b"late%d" % number)) for number in range(2)]
    assert min(early) > CALLER_NBYTES_MAX / 2
    assert min(late) > MARK_NBYTES + IN_SOCKETS / 2
    assert late == sorted(late, reverse=True)


def test_those_that_come_together_share_alike(callers: Callers) -> None:
    names = [callers.join(b"asleep%d" % number) for number in range(15)]
    nbytes = dict.fromkeys(names, 0)
    open_ones = list(names)
    while open_ones:
        for name in list(open_ones):
            if callers.deliveries.send(name, [PART]) == SENT:
                nbytes[name] += len(PART)
            else:
                open_ones.remove(name)
    share = NBYTES_MAX // (len(names) + 1)
    assert min(nbytes.values()) >= share - MARK_NBYTES
    assert max(nbytes.values()) <= share + IN_SOCKETS + MARK_NBYTES


@pytest.mark.parametrize("part", [bytes(100_000), BIG], ids=["small", "above a mark"])
def test_one_that_reads_is_sent_everything_beside_many_that_do_not(callers: Callers, part: bytes) -> None:
    for number in range(20):
        callers.fill(callers.join(b"asleep%d" % number))
    reader = callers.join(b"reader")
    for _ in range(60):
        assert callers.deliveries.send(reader, [part]) == SENT
        assert len(callers.read(reader)) == len(part)
        until(lambda: not callers.waiting_for([reader]), "what was read still counts")
    callers.check_sums()


def test_a_message_of_any_size_goes_where_nothing_waits(callers: Callers) -> None:
    name = callers.join(b"a")
    huge = bytes(CALLER_NBYTES_MAX + 1)
    assert callers.deliveries.send(name, [huge]) == SENT
    assert callers.deliveries.send(name, [huge]) == STALLED
    assert len(callers.read(name)) == len(huge)
    until(lambda: not callers.waiting(), "what was read still counts")
    assert callers.deliveries.send(name, [huge]) == SENT


def test_what_is_read_can_be_sent_again(callers: Callers) -> None:
    names = [callers.join(b"asleep%d" % number) for number in range(8)]
    first = sum(callers.fill(name) for name in names)
    for _ in range(3):
        for name in names:
            callers.read_all(name)
        until(lambda: not callers.waiting(), "what was read still counts")
        callers.check_sums()
        again = sum(callers.fill(name) for name in names)
        assert abs(again - first) <= len(names) * IN_SOCKETS


def test_what_one_has_read_is_room_for_others(callers: Callers) -> None:
    names = [callers.join(b"asleep%d" % number) for number in range(8)]
    for name in names:
        callers.fill(name)
    for name in names[:4]:
        callers.read_all(name)
    until(lambda: callers.fill(names[4]) > 0, "there is no room, though others have read")


def test_what_waits_for_one_that_leaves_is_free_again(callers: Callers) -> None:
    names = [callers.join(b"asleep%d" % number) for number in range(8)]
    for name in names:
        callers.fill(name)
    for name in names[:4]:
        callers.leave(name)  # nothing is sent to these any more
    until(lambda: callers.waiting() == callers.waiting_for(names[4:]), "what went with those that left still counts")
    assert callers.waiting() > 0
    for name in names[4:]:
        callers.leave(name)
        until(lambda name=name: callers.deliveries.send(name, [BIG]) == GONE, "nobody says that it has gone")
    until(lambda: callers.waiting() == 0, "what went with a caller still counts")
    callers.check_sums()
    callers.fill(callers.join(b"next"))
    until(lambda: callers.fill(callers.join(b"one more")) > CALLER_NBYTES_MAX / 2, "there is no room again")


def test_what_is_below_a_mark_is_counted_when_nothing_follows(callers: Callers) -> None:
    """And forgotten where it is next to nothing, or its caller has left."""
    asleep, left, small = (callers.join(name) for name in (b"asleep", b"left", b"small"))
    callers.fill(asleep)
    before = callers.waiting()
    assert callers.deliveries.send(left, [PART]) == SENT
    assert callers.deliveries.send(small, [b"next to nothing"]) == SENT
    unmarked = sum(callers.deliveries._unmarked.values())
    callers.leave(left)
    until(lambda: callers.deliveries.sign_of_life(left) == GONE, "nobody says that it has gone")
    assert callers.deliveries.sweep() == []
    callers.deliveries.sweep()
    assert callers.deliveries.nbytes - before <= unmarked
    assert not {left, small} & {*callers.deliveries._unmarked}
    callers.check_sums()


@pytest.mark.parametrize("seed", seeds(4, 60))
def test_sums_hold_whatever_comes(callers: Callers, seed: int) -> None:
    """Callers join, read, leave and are sent to, in any order."""
    draw = random.Random(seed)
    names = [b"%d" % number for number in range(12)]
    sizes = [1, 1000, MARK_NBYTES - 1, MARK_NBYTES, len(PART), len(BIG)]
    unread: dict[bytes, int] = {}  # messages
    for turn in range(400):
        at = draw.randrange(len(names))
        name = names[at]
        match draw.choice(("send", "send", "send", "send", "read", "leave", "sweep", "settle")):
            case "send" if name in unread:
                frames = [bytes(draw.choice(sizes)) for _ in range(draw.choice((1, 1, 2)))]
                before = callers.deliveries.nbytes
                if (result := callers.deliveries.send(name, frames)) == SENT:
                    unread[name] += 1
                assert result != GONE, "it is there"
                if result == STALLED:
                    assert callers.deliveries.nbytes <= before
            case "send":
                callers.join(name)
                unread[name] = 0
            case "read" if unread.get(name):
                callers.sockets[name].recv_multipart()
                unread[name] -= 1
            case "leave" if name in unread:
                callers.leave(name)
                del unread[name]
                names[at] = b"%d, from turn %d" % (at, turn)
                until(lambda name=name: callers.deliveries.sign_of_life(name) == GONE, "nobody says that it has gone")
                assert name not in callers.deliveries._marks
            case "sweep":
                callers.deliveries.sweep()
            case "settle":
                callers.deliveries.settle()
        callers.check_sums()
        assert callers.deliveries.nbytes <= NBYTES_MAX + 12 * (2 * len(BIG) + MARK_NBYTES)
    for name in unread:
        callers.read_all(name)
    until(lambda: callers.waiting() == 0, "what was read still counts")
