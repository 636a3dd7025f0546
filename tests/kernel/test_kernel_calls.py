"""Calls through a real kernel."""

import random
import struct
import time
from typing import Any

import numpy as np
import psutil
import pytest

from huterox_wire.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotFound,
    TooLarge,
    WorkerLost,
)
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import MESSAGE_NBYTES_MAX
from huterox_wire.message import encode
from huterox_wire.meta import CallMeta, TensorSpec, encode_meta
from huterox_wire.nodes import RegisteredMeta

from .conftest import Switchboard, route

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2


# Calls.


def test_a_call_is_answered_along_its_route(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A)
    assert ready.pid > 0
    assert ready.host_bytes > 1 << 20
    assert list(ready.timings_s) == ["zygote", "fork", "import", "load", "warmup", "measure"]
    answer = switchboard.answer(switchboard.call(A, "plus", x=np.arange(3), by=5))
    assert (answer.kind, answer.handle, answer.values["result"].tolist()) == (Kind.REPLY, 77, [5, 6, 7])
    report = switchboard.heartbeat_of(A, lambda r: r.requests == 1)
    assert (report.state, report.errors, report.pid) == ("ready", 0, ready.pid)
    assert report.busy_us > 0


def test_loading_is_told_before_ready_with_the_same_pid(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    assert [(e.what, e.pid == switchboard.events[0].pid) for e in switchboard.events] == [
        ("loading", True),
        ("ready", True),
    ]


def test_a_tensor_of_100_mb_comes_back_bit_exact_in_split_frames(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    tensor = np.random.default_rng(7).integers(0, 256, 100_000_000, dtype=np.uint8).view(np.float32)
    for _ in range(3):  # through the same lane: blocks come back
        result = switchboard.result(A, x=tensor)["x"]
        assert result.dtype == np.float32
        assert np.array_equal(result.view(np.uint8), tensor.view(np.uint8))


def test_many_calls_of_two_containers_never_mix_their_answers(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B, params={"offset": 1000})
    sizes = [1, 300, 70_000]
    sent = {}
    for index in range(120):
        container, caller = (A, B)[index % 2], f"caller-{index % 7}".encode()
        values = np.full(sizes[index % 3], index, np.int32)
        request_id = switchboard.call(container, "plus", caller=caller, x=values)
        sent[request_id] = values + 1 + (1000 if container == B else 0)
    for request_id, expected in sent.items():
        assert np.array_equal(switchboard.answer(request_id).values["result"], expected)
    assert all(len(answers) == 1 for answers in switchboard.answers.values())


def test_a_large_packed_message_is_taken_too(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    meta = b"\x82\xa6method\xa8anything\xa6params\x81\xa1t\xda\xff\xff" + b"x" * 0xFFFF
    frame = pack_header(Kind.CALL, Flag.PACKED, 0, 999, 77, 0, len(meta)) + meta
    switchboard.send(route(A), frame)
    assert switchboard.answer(999).values == {"t": "x" * 0xFFFF}


def test_a_stream_comes_part_by_part(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    answers = switchboard.parts_and_answer(switchboard.call(A, "blocks", stream=True, parts=5, nbytes=200_000))
    assert [answer.kind for answer in answers] == [Kind.PART] * 5 + [Kind.REPLY]
    assert [int(answer.values["result"][-1]) for answer in answers[:-1]] == [0, 1, 2, 3, 4]


def test_a_stream_longer_than_the_lane_flows(switchboard: Switchboard) -> None:
    switchboard.start(lane_half_mb=4)
    switchboard.created(A, "plain.py:Slow")
    answers = switchboard.parts_and_answer(switchboard.call(A, "blocks", stream=True, parts=50, nbytes=1_000_000))
    assert len(answers) == 51


def test_answers_wait_in_order_for_a_switchboard_that_does_not_read(switchboard: Switchboard) -> None:
    switchboard.start()
    worker = psutil.Process(switchboard.created(A, "plain.py:Slow").pid)
    stream = switchboard.call(A, "count", stream=True, parts=30_000)
    used = -1.0
    while used != (used := sum(worker.cpu_times()[:2])):  # until it has to wait
        time.sleep(0.3)
    answers = switchboard.parts_and_answer(stream)
    assert [answer.values["index"] for answer in answers[:-1]] == list(range(30_000))


def test_an_idle_lane_gives_its_memory_back(switchboard: Switchboard) -> None:
    process = switchboard.start(footprint_period_s=1.0)
    switchboard.created(A)
    switchboard.result(A, x=np.ones(50_000_000, np.uint8))
    kernel = psutil.Process(process.pid)
    assert kernel.memory_info().shared > 90 << 20
    switchboard.until(lambda: kernel.memory_info().shared < 60 << 20)


def test_a_running_stream_and_a_queued_call_are_cancelled(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    stream = switchboard.call(A, "count", stream=True, parts=100_000, seconds=0.01)
    switchboard.until(lambda: stream in switchboard.answers)
    queued = switchboard.call(A, seconds=60.0)
    switchboard.cancel(A, queued)
    switchboard.cancel(A, stream)
    assert isinstance(switchboard.answer(stream).error, Cancelled)
    assert isinstance(switchboard.answer(queued).error, Cancelled)
    assert switchboard.result(A, seconds=0.0) == {"result": 0.0}


def test_cancelling_what_is_not_there_does_nothing(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.cancel(A, 12345)
    switchboard.cancel(B, 12345)
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_call_that_comes_too_late_to_the_worker_is_not_run(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    first = switchboard.call(A, seconds=0.3)
    late = switchboard.call(A, budget_us=50_000, seconds=0.0)
    error = switchboard.answer(late).error
    assert isinstance(error, DeadlineExceeded)
    assert error.details["executed"] == "no"
    assert switchboard.answer(first).values == {"result": 0.3}


def test_errors_of_caller_and_model_come_back_typed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Faulty")
    with pytest.raises(ModelError) as caught:
        switchboard.result(A)
    assert "models/plain.py" in caught.value.details["traceback"]
    with pytest.raises(InvalidInput):
        switchboard.result(A, unknown=1)
    with pytest.raises(NotFound):
        switchboard.result(A, "unknown")
    assert switchboard.heartbeat_of(A, lambda r: r.errors == 3).state == "ready"


def test_a_call_for_a_container_that_is_not_here_is_handed_back_whole(switchboard: Switchboard) -> None:
    switchboard.start()
    for size in (1, 100_000):
        answer = switchboard.answer(switchboard.call(A, x=np.arange(size)))
        assert answer.kind is Kind.CALL
        assert np.array_equal(answer.values["x"], np.arange(size))


def test_a_call_that_can_never_fit_names_the_limit(switchboard: Switchboard) -> None:
    switchboard.start(lane_half_mb=1)
    switchboard.created(A)
    with pytest.raises(TooLarge) as caught:
        switchboard.result(A, x=np.zeros(2 << 20, np.uint8))
    assert caught.value.details["limit"] == 1 << 20
    with pytest.raises(TooLarge):
        switchboard.result(A, "zeros", nbytes=2 << 20)


def test_a_full_lane_is_busy_and_says_when_to_come_back(switchboard: Switchboard) -> None:
    switchboard.start(lane_ring_entries=128)
    switchboard.created(A, "plain.py:Slow")
    sent = [switchboard.call(A, seconds=0.002) for _ in range(200)]
    answers = [switchboard.answer(request_id).values for request_id in sent]
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert refused
    assert all(error.details["retry_after_s"] > 0 and error.retryable for error in refused)
    assert all(answer == {"result": 0.002} for answer in answers if not isinstance(answer, Busy))


# Garbage.


def test_garbage_from_the_switchboard_does_no_harm(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    chance = random.Random(11)
    switchboard.request_id = 1000  # those below are the garbage's
    good = encode(Kind.CALL, 5, 0, 0, encode_meta(RegisteredMeta(1, 1.0)))[0]
    for index in range(2000):
        frames = [chance.randbytes(chance.choice((0, 1, 7, 8, 40, 41, 500))) for _ in range(chance.randrange(0, 6))]
        if index % 5 == 0:
            frames = [route(A), chance.randbytes(60)]
        elif index % 5 == 1:
            damaged = bytearray(good)
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            frames = [chance.choice((b"", route(A), route(B), b"x")), bytes(damaged)]
        elif index % 5 == 2:
            kind = chance.choice(list(Kind))
            body = chance.randbytes(20)
            frames = [chance.choice((b"", route(0))), pack_header(kind, Flag.PACKED, 0, 1, 0, 0, 20) + body]
        switchboard.send(*frames)
    switchboard.send(*[b"x"] * 300)
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert process.poll() is None
    assert switchboard.heartbeat_of(A, lambda r: r.state == "ready")


@pytest.mark.parametrize(
    "frames",
    [
        lambda header: [header, b"\x80", b"too many"],
        lambda header: [header, b"\x80"] + [b""] * 300,
        lambda header: [header[:39] + b"\x01"],
    ],
    ids=["one frame more", "hundreds of frames", "reserved bits"],
)
def test_a_call_whose_frames_make_no_message_is_refused_to_its_caller(switchboard: Switchboard, frames: Any) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.send(route(A), *frames(pack_header(Kind.CALL, 0, 0, 4711, meta_nbytes=1)))
    assert isinstance(switchboard.answer(4711).error, InvalidInput)


def test_a_worker_that_writes_nonsense_into_its_lane_is_ended(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "hostile.py:Hostile")
    switchboard.created(B)
    with pytest.raises(WorkerLost):
        switchboard.result(A)
    event = switchboard.event(A, "gone")
    assert event.cause == "crashed"
    assert "lane" in event.reason
    assert switchboard.result(B, "plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_worker_that_lies_about_its_answer_harms_nobody_else(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(B)
    liar = "hostile.py:Liar"
    switchboard.created(A, liar)
    for _ in range(2):
        with pytest.raises(TooLarge) as refusal:
            switchboard.result(A, lie="over")
        assert refusal.value.details["need"] == MESSAGE_NBYTES_MAX + 1
        assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    lies = ["returned", "part", "split", "stranger", "short"]
    for index in range(len(lies)):
        switchboard.create(B + 1 + index, liar)
    for container, lie in enumerate(lies, B + 1):
        switchboard.event(container, "ready")
        with pytest.raises(WorkerLost):
            switchboard.result(container, lie=lie)
        assert "no answer to this call" in switchboard.event(container, "gone").reason
    assert switchboard.result(B, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert len(switchboard.registrations) == 1


def test_a_caller_with_an_identity_of_any_bytes_gets_its_answer(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = struct.pack("<Q", 2**64 - 1) * 8
    assert switchboard.answer(switchboard.call(A, "plus", caller=caller, x=np.zeros(1))).kind is Kind.REPLY


def test_a_call_that_fits_only_without_its_padding_is_refused_and_the_link_lives(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    meta = encode_meta(CallMeta("predict", {}, [TensorSpec("x", "uint8", [1])]))
    tensor = bytes(MESSAGE_NBYTES_MAX - 40 - len(meta))
    header = pack_header(Kind.CALL, 0, 1, 4711, 77, 0, len(meta))
    switchboard.send(route(A), header, meta, tensor)
    assert isinstance(switchboard.answer(4711).error, TooLarge)
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
