"""When lanes are sought, without any: the decisions alone."""

from math import inf

import pytest

from huterox.lease import (
    PAUSE_S_MAX,
    LaneGone,
    LaneOptions,
    Seeking,
    decode_lease_answer,
    encode_lease,
    is_local,
    lane_limits,
    lane_options,
)
from huterox_wire.errors import DeadlineExceeded, Fault, InvalidInput, Unavailable
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeasedMeta, LeaseMeta, decode_lease
from huterox_wire.message import decode, encode
from huterox_wire.meta import encode_meta

ABSENT = Unavailable("", reason="absent")
DRAINING = Unavailable("", reason="draining")
OTHER_HOST = Unavailable("", retryable=False, reason="other_host")


def refused(seeking: Seeking, error: Exception, now_s: float, *, opening: bool = False) -> bool:
    seeking.begin(opening=opening)
    return seeking.refused(error, now_s)


def granted(seeking: Seeking, now_s: float) -> None:
    seeking.begin(opening=False)
    seeking.granted(now_s)


def test_a_lane_is_due_from_the_beginning():
    assert Seeking().due_s <= 0.0


def test_nothing_is_due_while_an_attempt_is_under_way_or_a_lane_is_there():
    seeking = Seeking()
    seeking.begin(opening=True)
    assert seeking.due_s == inf
    seeking.granted(5.0)
    assert seeking.due_s == inf


@pytest.mark.parametrize("error", [ABSENT, DRAINING, Unavailable("kernel gone"), OSError(2, "no such file")])
def test_the_pause_after_refusals_doubles_up_to_its_limit(error):
    seeking, pauses, now_s = Seeking(), [], 100.0
    for _ in range(7):
        assert not refused(seeking, error, now_s)
        pauses.append(seeking.due_s - now_s)
        now_s = seeking.due_s
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, PAUSE_S_MAX, PAUSE_S_MAX]


def test_absent_at_the_opening_is_followed_by_no_pause():
    seeking = Seeking()
    assert not refused(seeking, ABSENT, 10.0, opening=True)
    assert seeking.due_s == 10.0
    refused(seeking, ABSENT, 10.5)
    assert seeking.due_s == 11.5


def test_draining_at_the_opening_is_followed_by_a_pause():
    seeking = Seeking()
    refused(seeking, DRAINING, 10.0, opening=True)
    assert seeking.due_s == 11.0


def test_another_host_is_never_asked_again():
    seeking = Seeking()
    assert refused(seeking, OTHER_HOST, 10.0, opening=True)
    assert seeking.due_s == inf
    seeking.lost(20.0)
    assert seeking.due_s == inf


def test_a_service_with_a_quota_is_asked_for_rarely_and_others_are_not_affected():
    seeking = Seeking()
    quota = Unavailable("it has a quota", retryable=False, reason="quota")
    assert not refused(seeking, quota, 10.0, opening=True)
    assert seeking.due_s == 40.0


def test_a_lost_lane_clears_the_pause():
    seeking = Seeking()
    for _ in range(4):
        refused(seeking, ABSENT, 0.0)
    granted(seeking, 50.0)
    seeking.lost(60.0)
    assert seeking.due_s == 60.0
    refused(seeking, ABSENT, 60.0)
    assert seeking.due_s == 61.0


def test_lanes_that_end_at_once_again_and_again_are_sought_ever_more_rarely():
    seeking, now_s, pauses = Seeking(), 0.0, []
    for _ in range(5):
        granted(seeking, now_s)
        seeking.lost(now_s + 0.1)
        pauses.append(seeking.due_s - now_s - 0.1)
        now_s = seeking.due_s
    assert pauses == pytest.approx([0.0, 1.0, 2.0, 4.0, 8.0])
    granted(seeking, 100.0)
    seeking.lost(110.0)
    assert seeking.due_s == 110.0


def test_options_are_checked():
    assert lane_options(True, None, "") == LaneOptions(True, 0)
    assert lane_options(True, 64, "1") == LaneOptions(True, 64)
    assert not lane_options(True, None, "0").seek
    assert not lane_options(False, None, "").seek
    for bad in (0, -1, 1 << 20, 1.5, "64", True):
        with pytest.raises(InvalidInput, match="lane_mb"):
            lane_options(True, bad, "")
    assert lane_limits("wait").lane_waits
    assert not lane_limits("busy").lane_waits
    with pytest.raises(InvalidInput, match="when_full"):
        lane_limits("now")
    assert lane_limits("wait", 0).lane_spin_us == 0
    for bad in (-1, 1001, 1.5, "50", True):
        with pytest.raises(InvalidInput, match="lane_spin_us"):
            lane_limits("wait", bad)


def test_a_switchboard_on_this_host_is_known_by_its_endpoint():
    assert is_local("ipc:///run/huterox/switchboard.ipc")
    assert is_local("tcp://127.0.0.1:5555")
    assert not is_local("tcp://10.0.0.5:5555")
    assert not is_local("tcp://node1:5555")


def test_a_lease_tells_host_process_and_size():
    assert decode_lease(encode_lease("boot", 42, LaneOptions(half_mb=64))) == LeaseMeta("boot", 42, 64)


def test_an_answer_to_a_lease_is_decoded_or_a_fault():
    def answer(meta: bytes):
        return decode(encode(Kind.REPLY, 1, 0, 0, meta))

    leased = LeasedMeta("/run/lanes.sock", b"t" * 32, 7)
    assert decode_lease_answer(answer(encode_meta(leased))) == leased
    with pytest.raises(Fault, match="LEASE"):
        decode_lease_answer(answer(b"\xc1"))


def test_a_call_that_a_lane_has_not_done_has_the_time_that_is_left():
    assert LaneGone().left_s(60.0, now_s=1000.0) == 60.0
    assert LaneGone(deadline_s=1003.0).left_s(60.0, now_s=1000.0) == 3.0
    assert LaneGone(deadline_s=1003.0).left_s(2.0, now_s=1000.0) == 2.0
    with pytest.raises(DeadlineExceeded):
        LaneGone(deadline_s=1003.0).left_s(60.0, now_s=1003.0)
