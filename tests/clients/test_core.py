"""The client core by events: no socket, no clock."""

from math import inf, nan

import pytest

from huterox.core import Call, ClientCore, Limits, cancel_frame
from huterox_wire.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    Fault,
    InvalidInput,
    ModelError,
    TooLarge,
    Unavailable,
)
from huterox_wire.header import unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import decode, encode
from huterox_wire.meta import ReplyMeta, encode_meta, error_meta

SMALL = Limits(in_flight_max=2, in_flight_nbytes_max=1000, stream_parts_max=3, stream_nbytes_max=500, grace_s=0.5)


def make_core(limits: Limits = SMALL) -> ClientCore:
    return ClientCore(limits)


def begin(core: ClientCore, *, timeout_s: float = 10.0, now_s: float = 0.0, stream: bool = False) -> Call:
    call = core.prepare(Kind.CALL, 7, b"\x80", (), timeout_s, stream=stream)
    core.add(call, now_s)
    return call


def answer(call: Call, kind: Kind = Kind.REPLY, meta: bytes = encode_meta(ReplyMeta({"x": 1}))) -> list[bytes]:
    return [bytes(frame) for frame in encode(kind, call.request_id, 0, 0, meta)]


def test_a_call_carries_its_handle_its_budget_and_an_id_of_its_own():
    core = make_core()
    first, second = (core.prepare(Kind.CALL, 7, b"\x80", (), 1.5) for _ in range(2))
    header = decode(first.frames).header
    assert (header.kind, header.handle, header.budget_us) == (Kind.CALL, 7, 1_500_000)
    assert first.request_id != second.request_id


def test_a_call_that_takes_parts_says_so():
    assert decode(make_core().prepare(Kind.CALL, 7, b"\x80", (), 1.0, stream=True).frames).header.flags & Flag.STREAM


@pytest.mark.parametrize("timeout_s", [0, -1, nan, inf, 86401, "2", None, [1]], ids=repr)
def test_a_timeout_that_cannot_be_is_refused(timeout_s):
    with pytest.raises(InvalidInput, match="timeout"):
        make_core().prepare(Kind.CALL, 7, b"", (), timeout_s)


def test_a_timeout_under_a_microsecond_still_is_a_budget():
    assert decode(make_core().prepare(Kind.CALL, 7, b"", (), 1e-9).frames).header.budget_us == 1


def test_a_message_over_the_limit_is_refused_before_it_is_sent():
    with pytest.raises(TooLarge):
        make_core().prepare(Kind.CALL, 7, b"", [memoryview(bytes(1)).cast("B"), bytearray(512 * 1024**2)], 1.0)


def test_an_answer_ends_its_call_and_no_other():
    core = make_core()
    first, second = begin(core), begin(core)
    assert core.on_frames(answer(second)) is second
    assert second.ended
    assert not first.ended
    assert core.in_flight_count == 1
    assert second.outcome().header.request_id == second.request_id


def test_an_error_is_raised_as_what_it_was_when_it_was_sent():
    core = make_core()
    call = begin(core)
    core.on_frames(answer(call, Kind.ERROR, error_meta(ModelError("boom", traceback="line 1"))))
    for _ in range(2):
        with pytest.raises(ModelError, match="boom") as caught:
            call.outcome()
    assert caught.value.details == {"traceback": "line 1"}


@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.ERROR])
def test_a_malformed_answer_is_the_other_sides_fault(kind):
    core = make_core()
    call = begin(core)
    frames = answer(call, kind, b"\xc1")
    core.on_frames([frames[0][:-1]])
    with pytest.raises(Fault, match="malformed"):
        call.outcome()


def test_a_malformed_error_is_the_other_sides_fault():
    core = make_core()
    call = begin(core)
    core.on_frames(answer(call, Kind.ERROR, b"\xc1"))
    with pytest.raises(Fault, match="malformed error"):
        call.outcome()


def test_messages_that_belong_to_no_call_are_counted_and_dropped():
    core = make_core()
    call = begin(core)
    late = answer(call)
    core.on_frames(late)
    other = begin(core)
    for frames in (late, [b""], [b"short"], [b"\xff" * 40], answer(other, Kind.HEARTBEAT), answer(other, Kind.PART)):
        assert core.on_frames(frames) is None
    assert core.strays == 6
    assert not other.ended


def test_a_silent_call_ends_a_little_after_its_deadline():
    core = make_core()
    call = begin(core, timeout_s=10.0, now_s=100.0)
    assert core.next_deadline_s == 110.5
    assert core.expire(110.4) == []
    assert core.expire(110.5) == [call]
    with pytest.raises(DeadlineExceeded, match="within 10 s"):
        call.outcome()
    assert core.next_deadline_s == inf
    assert core.on_frames(answer(call)) is None


def test_the_earliest_deadline_is_found_again_when_its_call_was_answered():
    core = make_core()
    quick, slow = begin(core, timeout_s=1.0), begin(core, timeout_s=5.0)
    core.on_frames(answer(quick))
    assert core.next_deadline_s == 1.5
    assert core.expire(1.5) == []
    assert core.next_deadline_s == 5.5
    assert core.expire(6.0) == [slow]


def test_a_cancelled_call_is_forgotten_and_its_cancel_names_it():
    core = make_core()
    call = begin(core)
    assert core.cancel(call)
    assert not core.cancel(call)
    header = unpack_header(cancel_frame(call))
    assert (header.kind, header.request_id) == (Kind.CANCEL, call.request_id)
    assert core.on_frames(answer(call)) is None
    with pytest.raises(Cancelled):
        call.outcome()


def test_one_call_too_many_is_busy_and_room_comes_back():
    core = make_core()
    first, _ = begin(core), begin(core)
    with pytest.raises(Busy, match="2 calls") as caught:
        begin(core)
    assert caught.value.details["limit"] == 2
    core.on_frames(answer(first))
    begin(core)


def test_too_many_bytes_in_flight_are_busy():
    core = make_core()
    large = core.prepare(Kind.CALL, 7, bytes(800), (), 1.0)
    core.add(large, 0.0)
    with pytest.raises(Busy, match="in flight"):
        core.add(core.prepare(Kind.CALL, 7, bytes(800), (), 1.0), 0.0)
    core.on_frames(answer(large))
    core.add(core.prepare(Kind.CALL, 7, bytes(800), (), 1.0), 0.0)


def test_one_message_over_the_byte_limit_may_travel_alone():
    core = make_core()
    core.add(core.prepare(Kind.CALL, 7, bytes(5000), (), 1.0), 0.0)
    assert core.in_flight_count == 1


def test_closing_ends_everything_and_takes_nothing_more():
    core = make_core()
    calls = [begin(core), begin(core, stream=True)]
    assert core.close() == calls
    assert core.close() == []
    for call in calls:
        with pytest.raises(Cancelled, match="closed"):
            call.outcome()
    with pytest.raises(Unavailable, match="closed") as caught:
        begin(core)
    assert not caught.value.retryable


def test_parts_are_kept_in_order_until_they_are_taken():
    core = make_core()
    call = begin(core, stream=True)
    for index in range(3):
        assert core.on_frames(answer(call, Kind.PART, encode_meta(ReplyMeta({"i": index})))) is call
        assert not call.ended
    core.on_frames(answer(call))
    assert call.ended
    metas = [bytes(decode(core.take_part(call)).meta) for _ in range(3)]
    assert metas == [encode_meta(ReplyMeta({"i": index})) for index in range(3)]
    with pytest.raises(Fault):
        core.take_part(call)
    assert call.outcome().header.kind == Kind.REPLY


def test_a_stream_whose_reader_is_too_slow_ends_as_busy():
    core = make_core()
    call = begin(core, stream=True)
    for _ in range(4):
        core.on_frames(answer(call, Kind.PART))
    assert call.ended
    assert call.answer is None
    with pytest.raises(Busy, match="too slow"):
        call.outcome()


def test_a_stream_whose_parts_are_too_large_ends_as_busy_but_taken_parts_do_not_count():
    core = make_core()
    call = begin(core, stream=True)
    for _ in range(10):
        core.on_frames(answer(call, Kind.PART, bytes(300)))
        assert not call.ended
        core.take_part(call)
    core.on_frames(answer(call, Kind.PART, bytes(300)))
    core.on_frames(answer(call, Kind.PART, bytes(300)))
    assert call.ended


def test_one_part_may_be_as_large_as_any_message():
    core = make_core()
    call = begin(core, stream=True)
    for _ in range(2):
        core.on_frames(answer(call, Kind.PART, bytes(5000)))
        assert not call.ended
        core.take_part(call)


def test_unattended_calls_are_counted_until_they_end_in_any_way():
    core = make_core(Limits())
    calls = [core.prepare(Kind.CALL, 7, b"", (), 1.0) for _ in range(4)]
    for call in calls:
        call.unattended = True
        core.add(call, 0.0)
    assert core.unattended_count == 4
    core.on_frames(answer(calls[0]))
    core.cancel(calls[1])
    assert core.unattended_count == 2
    core.expire(99.0)
    assert core.unattended_count == 0


@pytest.mark.parametrize("nbytes", [0, 100, 100_000], ids=["plain", "packed", "split"])
def test_a_renewed_call_differs_by_id_handle_and_budget_alone(nbytes):
    core = make_core()
    call = core.prepare(Kind.CALL, 7, b"meta", [bytes(nbytes)] if nbytes else (), 10.0, stream=True)
    core.add(call, 0.0)
    again = core.renew(call, 8, now_s=4.0)
    old, new = decode(call.frames), decode(again.frames)
    assert (new.header.handle, new.header.budget_us) == (8, 6_000_000)
    assert new.header.request_id == again.request_id != old.header.request_id
    assert bytes(new.meta) == b"meta"
    assert new.header.flags == old.header.flags
    assert len(new.tensors or []) == len(old.tensors or [])
    assert again.parts is not None


def test_a_call_without_time_left_is_not_renewed():
    core = make_core()
    call = begin(core, timeout_s=1.0)
    with pytest.raises(DeadlineExceeded):
        core.renew(call, 8, now_s=1.0)


def test_the_outcome_of_a_call_under_way_is_a_fault():
    with pytest.raises(Fault):
        begin(make_core()).outcome()
