"""Who may have a lane, and which there are."""

import itertools
from typing import Any

import pytest

from huterox_kernel.core.leases import CONTAINER_LANES_MAX, Lane, LeaseLimits, LeaseTable, Phase
from huterox_kernel.core.usage import SERVICES_MAX
from huterox_wire.errors import Busy, InvalidInput, Unauthorized, Unavailable
from huterox_wire.leases import LeaseOrderMeta

A, B = 1 << 32 | 1, 1 << 32 | 2
MIB = 1 << 20


class Counted:
    """Tokens that are counted through, and good once."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self.out: set[bytes] = set()

    def issue(self, now_s: float) -> bytes:
        token = str(next(self._next)).encode()
        self.out.add(token)
        return token

    def redeem(self, token: bytes, now_s: float) -> bool:
        known = token in self.out
        self.out.discard(token)
        return known


def table(lanes_max: int = 1000, *, admitted: tuple[int, ...] = (A, B), **limits: Any) -> LeaseTable:
    values = {"half_mb": 256, "half_mb_max": 1024, "ring_entries": 1024, "token_s": 5.0, **limits}
    made = LeaseTable(LeaseLimits(lanes_max=lanes_max, **values), Counted())
    for container in admitted:
        made.open(container)
        made.admit(container)
    return made


def order(container: int = A, service: int = 7, **sizes: int) -> LeaseOrderMeta:
    return LeaseOrderMeta(1, container, service, f"acme/{service}", **sizes)


def lane(leases: LeaseTable, container: int = A, service: int = 7, **sizes: int) -> Lane:
    return leases.redeem(leases.promise(order(container, service, **sizes), 0.0), 0.0)


def test_a_promise_becomes_a_lane_once() -> None:
    leases = table()
    token = leases.promise(order(), 0.0)
    got = leases.redeem(token, 1.0)
    assert (got.container, got.service, got.title, got.phase) == (A, 7, "acme/7", Phase.OPEN)
    assert (got.half_nbytes, got.ring_entries) == (256 * MIB, 1024)
    with pytest.raises(Unauthorized):
        leases.redeem(token, 1.0)


def test_a_promise_ends_with_its_time() -> None:
    leases = table(token_s=5.0)
    token = leases.promise(order(), 0.0)
    with pytest.raises(Unauthorized):
        leases.redeem(token, 5.0)


def test_a_token_that_was_never_issued_opens_nothing() -> None:
    leases = table()
    leases.promise(order(), 0.0)
    with pytest.raises(Unauthorized):
        leases.redeem(b"forged", 0.0)
    assert leases.lanes(A) == []


def test_sizes_are_the_callers_up_to_the_limit() -> None:
    leases = table()
    asked = lane(leases, half_mb=8, ring_entries=128)
    assert (asked.half_nbytes, asked.ring_entries) == (8 * MIB, 128)
    assert lane(leases, half_mb=5000).half_nbytes == 1024 * MIB


@pytest.mark.parametrize("ring_entries", [1, 64, 127, 129, 1000])
def test_a_ring_that_cannot_be_is_refused(ring_entries: int) -> None:
    with pytest.raises(InvalidInput):
        table().promise(order(ring_entries=ring_entries), 0.0)


def test_a_container_that_is_not_here_or_does_not_admit_grants_nothing() -> None:
    leases = table(admitted=(A,))
    leases.open(B)
    for container, reason in ((B, "draining"), (99, "absent")):
        with pytest.raises(Unavailable) as caught:
            leases.promise(order(container), 0.0)
        assert caught.value.details["reason"] == reason


def test_a_promise_is_worth_nothing_once_its_container_drains_or_has_gone() -> None:
    leases = table()
    first, second = leases.promise(order(A), 0.0), leases.promise(order(B), 0.0)
    leases.drain(A)
    leases.close(B)
    for token, reason in ((first, "draining"), (second, "absent")):
        with pytest.raises(Unavailable) as caught:
            leases.redeem(token, 0.0)
        assert caught.value.details["reason"] == reason
    assert leases.is_drained(A)


def test_the_kernels_limit_holds_when_a_promise_is_made_and_when_it_is_redeemed() -> None:
    leases = table(lanes_max=2)
    late = leases.promise(order(B), 0.0)
    lanes = [lane(leases, A), lane(leases, B)]
    for attempt in (lambda: leases.promise(order(), 0.0), lambda: leases.redeem(late, 0.0)):
        with pytest.raises(Busy) as caught:
            attempt()
        assert caught.value.details == {"reason": "full", "limit": 2}
    leases.end(lanes[0])
    with pytest.raises(Busy):  # the worker still has it
        lane(leases)
    leases.let_go(lanes[0])
    assert lane(leases).phase is Phase.OPEN


def test_a_container_has_its_own_limit() -> None:
    leases = table(lanes_max=10_000)
    lanes = [lane(leases, A) for _ in range(CONTAINER_LANES_MAX)]
    assert sorted(one.slot for one in lanes) == list(range(CONTAINER_LANES_MAX))
    with pytest.raises(Busy):
        lane(leases, A)
    assert lane(leases, B).slot == 0


def test_a_service_that_could_not_be_counted_gets_no_lane() -> None:
    leases = table()
    for service in range(SERVICES_MAX):
        leases.let_go(lane(leases, service=service))
    with pytest.raises(Busy):
        lane(leases, service=SERVICES_MAX)
    assert lane(leases, service=0)


def test_a_slot_is_given_out_again_only_when_the_worker_has_let_go() -> None:
    leases = table()
    first = lane(leases)
    leases.end(first)
    second = lane(leases)
    assert second.slot != first.slot
    leases.let_go(first)
    third = lane(leases)
    assert third.slot == first.slot
    assert len({first.lane, second.lane, third.lane}) == 3


def test_a_lane_ends_once() -> None:
    leases = table()
    one = lane(leases)
    assert leases.end(one)
    assert not leases.end(one)
    assert leases.lanes(A) == [one]
    assert leases.find(A, one.lane) is one
    leases.let_go(one)
    assert leases.lanes(A) == []
    assert leases.find(A, one.lane) is None


def test_a_drain_names_the_lanes_that_are_open_and_is_done_when_all_are_let_go() -> None:
    leases = table()
    over, first, second = lane(leases), lane(leases), lane(leases)
    other = lane(leases, B)
    leases.end(over)
    assert leases.drain(A) == [first, second]
    assert leases.drain(A) == []
    assert [one.phase for one in (over, first, other)] == [Phase.ENDED, Phase.DRAINING, Phase.OPEN]
    for one in (over, first, second):
        assert not leases.is_drained(A)
        leases.let_go(one)
    assert leases.is_drained(A)
    assert not leases.is_drained(B)


def test_a_container_that_goes_takes_its_lanes_with_it() -> None:
    leases = table(lanes_max=3)
    lanes = [lane(leases, A) for _ in range(3)]
    assert leases.close(A) == lanes
    assert leases.close(A) == []
    assert leases.usage(A) is None
    assert [lane(leases, B).slot for _ in range(3)] == [0, 1, 2]


def test_a_service_that_is_deleted_loses_its_lanes_and_promises_and_no_other_does() -> None:
    leases = table()
    mine, others, elsewhere = lane(leases), lane(leases, service=8), lane(leases, B)
    promised, promised_to_others = leases.promise(order(), 0.0), leases.promise(order(service=8), 0.0)
    assert leases.drain_service(A, 7) == [mine]
    assert (mine.phase, others.phase, elsewhere.phase) == (Phase.DRAINING, Phase.OPEN, Phase.OPEN)
    assert leases.drain_service(A, 7) == []
    with pytest.raises(Unauthorized):
        leases.redeem(promised, 0.0)
    assert leases.redeem(promised_to_others, 0.0).service == 8
