"""Dedicated containers that are lent while they are idle, and come back within a bound."""

import pytest
from tests.connector.harness import Harness, created, events_of, forwarded, refused

from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind


class Lender:
    """One slot, held by the container of a dedicated service that lends it; another service of the model is shared."""

    def __init__(self, lend: bool = True, call_s: float = 0.1, **config: object) -> None:
        self.harness = Harness(**{"lend_idle_s": 2.0, "lend_call_s_max": 1.0, "node_timeout_s": 1e9, **config})
        self.node = self.harness.node(slots=1)
        self.harness.deploy("m")
        self.harness.service("own", "m", tier="dedicated", lend=lend)
        self.harness.service("other", "m", tenant="t2")
        self.container = created(self.harness.call("own", 1))[0].container
        self.harness.ready(self.node, self.container)
        self.answer(1, call_s)

    def answer(self, request_id: int, busy_s: float = 0.1) -> None:
        header = pack_header(Kind.REPLY, Flag.PACKED, 0, request_id, 0, int(busy_s * 1e6))
        assert self.harness.board.calls.answered(self.node, self.harness.route_of(request_id), header) is not None


def test_idle_container_serves_another_service_without_a_load() -> None:
    lender = Lender()
    effects = lender.harness.call("other", 2, now_s=5.0)
    assert created(effects) == []
    (forward,) = forwarded(effects)
    assert forward.frames == [b"frame2"]
    assert int.from_bytes(forward.route[:8], "little") == lender.container
    (lend,) = events_of(effects, "lend")
    assert lend.reason == "default/own is idle and lends it: calls of other services of m need no load"
    lender.answer(2)
    rows = {row["name"]: row for row in lender.harness.ask("services")}
    assert rows["other"]["usage"]["calls"] == 1
    assert rows["other"]["state"] == "absent"  # it has none of its own


def test_container_is_lent_only_where_its_owner_allows_it() -> None:
    lender = Lender(lend=False)
    effects = lender.harness.call("other", 2, now_s=5.0)
    assert forwarded(effects) == []
    assert refused(effects)[0].error.code == "ResourceInterrupt"


def test_owner_comes_first_and_nothing_is_borrowed_until_it_has_been_idle_again() -> None:
    lender = Lender()
    harness = lender.harness
    assert len(forwarded(harness.call("other", 2, now_s=5.0))) == 1
    assert harness.hit("own", 3, now_s=5.01) is not None  # at once: one borrowed call is before it at most
    lender.answer(2)
    lender.answer(3)
    assert forwarded(harness.call("other", 4, now_s=6.9)) == []
    assert refused(harness.call("other", 5, now_s=6.95)) != []


def test_one_call_is_borrowed_at_a_time_and_the_next_follows_when_it_has_ended() -> None:
    lender = Lender()
    harness = lender.harness
    assert len(forwarded(harness.call("other", 2, now_s=5.0))) == 1
    assert harness.call("other", 3, now_s=5.0) == []  # it waits: what is lent is free again soon
    assert forwarded(harness.tick(5.05)) == []
    lender.answer(2)
    assert [forward.frames for forward in forwarded(harness.tick(5.1))] == [[b"frame3"]]


@pytest.mark.parametrize(("call_s", "lent"), [(0.5, True), (1.5, False)])
def test_only_models_with_short_calls_are_lent_so_that_the_bound_holds(call_s: float, lent: bool) -> None:
    lender = Lender(call_s=call_s)
    assert bool(forwarded(lender.harness.call("other", 2, now_s=5.0))) is lent


def test_other_models_are_never_served_by_it() -> None:
    lender = Lender()
    lender.harness.service("foreign")
    assert forwarded(lender.harness.call("foreign", 2, now_s=5.0)) == []


def test_lent_container_is_still_no_victim() -> None:
    lender = Lender()
    lender.harness.call("other", 2, now_s=5.0)
    lender.harness.service("foreign")
    effects = lender.harness.call("foreign", 3, now_s=5.5)
    (refusal,) = refused(effects)
    assert refusal.error.details["nodes"][0]["held_by"][0]["stays_because"] == "dedicated"


def test_lender_that_is_deleted_lends_nothing_more() -> None:
    lender = Lender()
    lender.harness.ask("delete", name="own")
    assert forwarded(lender.harness.call("other", 2, now_s=5.0)) == []


def test_lending_is_for_dedicated_services_alone() -> None:
    harness = Harness()
    harness.deploy("m")
    with pytest.raises(Exception, match="only a dedicated service has containers to lend") as caught:
        harness.ask("create", name="s", model="m", lend=True)
    assert getattr(caught.value, "code", "") == "InvalidInput"
