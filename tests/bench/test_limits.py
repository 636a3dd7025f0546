"""The limits, measured for real but briefly."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.limits import zmq_proxy
from huterox_bench.limits.eventfd import EventfdRoundTrip
from huterox_bench.limits.suite import open_limits
from huterox_bench.limits.zmq_proxy import ProxyChain, ZmqProxy
from huterox_bench.loads import SHAPES, Shape, SliceLimit
from huterox_bench.options import Options

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
BRIEF = SliceLimit(5.0, 50)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_limit_runs_slice_after_slice_and_nothing_is_left() -> None:
    counts = []
    for _ in range(2):  # pyzmq opens a few descriptors for ever, with the first large message
        with ExitStack() as stack:
            loads = open_limits(Options(), stack)
            eventfds = ["eventfd_rtt", "eventfd_apart"] if len(os.sched_getaffinity(0)) > 1 else ["eventfd_rtt"]
            assert [load.name for load in loads] == [*eventfds, *["zmq_proxy"] * len(SHAPES)]
            assert [load.shape for load in loads] == [*[(1, 8)] * len(eventfds), *SHAPES]
            for load in loads * 2:
                slice_ = load.run(SliceLimit(10.0, 20))
                assert len(slice_.latencies_ns) == 20
                assert slice_.elapsed_ns > 0
        counts.append(open_fds())
    assert counts[0] == counts[1]


def test_a_dead_eventfd_peer_is_an_error_and_no_hang(stack: ExitStack) -> None:
    load = EventfdRoundTrip(stack)
    load.run(BRIEF)
    os.kill(load._peer.pid, signal.SIGKILL)
    with pytest.raises(BenchError, match="the eventfd peer has ended by itself"):
        load.run(SliceLimit(60.0))


def test_the_two_of_a_round_trip_run_where_they_are_told_and_this_process_only_for_a_slice(stack: ExitStack) -> None:
    usable = os.sched_getaffinity(0)
    first, last = min(usable), max(usable)
    load = EventfdRoundTrip(stack, (first, last))
    load.run(BRIEF)
    assert os.sched_getaffinity(load._peer.pid) == {last}
    assert os.sched_getaffinity(0) == usable


@pytest.mark.parametrize(("child", "name"), [(0, "the C proxy"), (1, "the echo worker")])
def test_a_dead_proxy_or_worker_is_an_error_and_no_hang(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, child: int, name: str
) -> None:
    monkeypatch.setattr(zmq_proxy, "ANSWER_TIMEOUT_MS", 1500)
    chain = ProxyChain(stack)
    load = ZmqProxy(chain, Shape(4, 1024))
    load.run(BRIEF)
    os.kill(chain._children[child].pid, signal.SIGKILL)
    chain._children[child].wait()
    with pytest.raises(BenchError, match=f"{name} has ended by itself"):
        load.run(SliceLimit(30.0, 10**9))


class BadChain(ProxyChain):
    """A chain whose worker gives every answer twice: soon each call gets the answer to an earlier one."""

    def __init__(self, stack: ExitStack) -> None:
        context = stack.enter_context(zmq.Context())
        self.socket = stack.enter_context(context.socket(zmq.PAIR))
        self._worker = stack.enter_context(context.socket(zmq.PAIR))
        self._worker.bind("inproc://bad")
        self.socket.connect("inproc://bad")
        self._children = ()

    def answer(self, answers: list[bytes]) -> None:
        for answer in answers:
            self._worker.send(answer)


@pytest.mark.parametrize("nbytes", [1024, 100_000])
def test_an_answer_to_another_call_is_found_at_once(stack: ExitStack, nbytes: int) -> None:
    chain = BadChain(stack)
    load = ZmqProxy(chain, Shape(2, nbytes))
    first, second, _ = load._payloads
    chain.answer([second, first])
    with pytest.raises(WrongAnswer, match="call 0"):
        load.run(SliceLimit(5.0, 2))


def test_a_large_answer_with_a_wrong_byte_is_found_at_the_end_of_the_slice(stack: ExitStack) -> None:
    chain = BadChain(stack)
    load = ZmqProxy(chain, Shape(1, 100_000))
    damaged = bytearray(load._payloads[0])
    damaged[50_000] ^= 1
    chain.answer([bytes(damaged)])
    with pytest.raises(WrongAnswer, match="other bytes"):
        load.run(SliceLimit(5.0, 1))
