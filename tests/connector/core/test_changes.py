"""Verbs that change what is desired: pin, unpin, drain, resume, quotas, info."""

import pytest
from tests.connector.harness import Harness, closed, created, events_of, refused

from huterox_connector.core import desired
from huterox_connector.core import effects as asked
from huterox_connector.core.measured import Measured
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_wire.errors import HuteroxError


def restarted(harness: Harness, effects: list[asked.Effect]) -> Switchboard:
    """Another switchboard, which knows what these effects have written."""
    stored: dict[str, bytes] = {}
    for effect in effects:
        if isinstance(effect, asked.Commit):
            for write in effect.writes:
                stored.pop(write.key, None)
                if write.value is not None:
                    stored[write.key] = write.value
    board = Switchboard(harness.config, Term(2, mark=2), 0.0, 0.0)
    board.restore(desired.decode(stored), Measured(), [])
    return board


def deploy_and_create(harness: Harness, **create: object) -> list[asked.Effect]:
    effects = harness.admin("deploy", model={"name": "m", "entry": "m.py:M"})
    effects += harness.admin("create", name="s", model="m", **create)
    harness.handles["s"] = harness.board.registry.service("default", "s").id
    return effects


class TestPin:
    def test_pinned_from_now_on_and_on_disk(self, harness: Harness) -> None:
        node = harness.node(slots=1)
        effects = deploy_and_create(harness)
        harness.load(node, "s", 1)
        harness.service("other")
        effects += harness.admin("pin", name="s")
        (tier,) = events_of(effects, "tier")
        assert (tier.subject, tier.reason) == ("default/s", "pinned from now on")
        assert refused(harness.call("other", 2, now_s=100.0))[0].error.code == "ResourceInterrupt"
        board = restarted(harness, effects)
        assert board.registry.groups["m", 0].pinned

    def test_unpinning_makes_room_for_who_waits(self) -> None:
        harness = Harness(room_patience_s=50.0, turn_after_s=40.0, node_timeout_s=1e9)
        node = harness.node(slots=2)
        deploy_and_create(harness, tier="pinned")
        pinned = harness.load(node, "s", 1)
        for name in ("busy", "other"):
            harness.service(name)
        harness.load(node, "busy", 2)
        harness.hit("busy", 3, now_s=0.5)
        # It waits: the busy one may leave in its turn.
        assert harness.call("other", 4, now_s=1.0, budget_s=60.0) == []
        effects = harness.admin("unpin", name="s", now_s=2.0)
        assert [close.container for close in closed(effects)] == [pinned]

    def test_twice_is_once(self, harness: Harness) -> None:
        deploy_and_create(harness)
        for _ in range(3):
            harness.ask("pin", name="s")
        assert harness.board.registry.groups["m", 0].pins == 1
        for _ in range(3):
            harness.ask("unpin", name="s")
        assert harness.board.registry.groups["m", 0].pins == 0

    def test_dedicated_service_cannot_be_pinned(self, harness: Harness) -> None:
        deploy_and_create(harness, tier="dedicated")
        with pytest.raises(HuteroxError, match="never leave for others anyway") as caught:
            harness.ask("pin", name="s")
        assert caught.value.code == "Conflict"

    def test_unknown_service_is_not_found(self, harness: Harness) -> None:
        with pytest.raises(HuteroxError, match="no service named 'nobody'"):
            harness.ask("pin", name="nobody")


class TestDrain:
    def test_is_on_disk_for_a_node_that_comes_later(self, harness: Harness) -> None:
        harness.node("n1")
        effects = harness.admin("drain", name="n1")
        board = restarted(harness, effects)
        harness.board = board
        harness.node("n1")
        assert board.registry.nodes_by_name["n1"].drained
        assert harness.ask("nodes")[0]["state"] == "drained"

    def test_unknown_node_is_not_found(self, harness: Harness) -> None:
        for verb in ("drain", "resume"):
            with pytest.raises(HuteroxError, match="no node named 'n9' is registered"):
                harness.ask(verb, name="n9")

    def test_node_that_is_away_can_be_resumed(self, harness: Harness) -> None:
        harness.node("n1")
        harness.ask("drain", name="n1")
        harness.tick(100.0)  # it is lost
        assert harness.ask("resume", name="n1") == {"node": "n1", "drained": False}
        harness.node("n1", now_s=101.0)
        assert not harness.board.registry.nodes_by_name["n1"].drained


class TestQuota:
    def test_calls_in_flight_of_a_service_are_bounded_routed_and_waiting(self, harness: Harness) -> None:
        node = harness.node(slots=2)
        deploy_and_create(harness, in_flight_max=2)
        container = created(harness.call("s", 1))[0].container
        harness.call("s", 2)
        assert refused(harness.call("s", 3))[0].error.code == "Busy"
        harness.ready(node, container)
        assert harness.hit("s", 4) is None
        (refusal,) = refused(harness.call("s", 4))
        assert "which is its quota" in refusal.error.message
        harness.answer(node, 1)
        assert harness.hit("s", 5) is not None

    def test_service_with_a_quota_gets_no_lane_and_hears_why(self, harness: Harness) -> None:
        node = harness.node(slots=2)
        deploy_and_create(harness, in_flight_max=2)
        harness.load(node, "s", 1)
        (refusal,) = refused(harness.lease("s", 2))
        assert (refusal.error.code, refusal.error.details["reason"]) == ("Unavailable", "quota")


def test_info_and_quota_are_shown_and_survive(harness: Harness) -> None:
    effects = deploy_and_create(harness, in_flight_max=7, info={"owner": "Ada", "camera": "north"})
    (row,) = harness.ask("services")
    assert (row["info"], row["quota"]) == ({"owner": "Ada", "camera": "north"}, {"in_flight_max": 7})
    service = restarted(harness, effects).registry.service("default", "s")
    assert (service.info, service.in_flight_max) == ({"owner": "Ada", "camera": "north"}, 7)


@pytest.mark.parametrize(
    "args",
    [
        {"tier": "golden"},
        {"in_flight_max": -1},
        {"info": {f"k{number}": "v" for number in range(17)}},
        {"info": {"k": "v" * 257}},
        {"info": {"": "v"}},
        {"unheard_of": 1},
    ],
    ids=["tier", "quota", "too many infos", "long info", "empty key", "unknown argument"],
)
def test_bad_arguments_are_refused_and_nothing_is_made(harness: Harness, args: dict[str, object]) -> None:
    harness.deploy("m")
    with pytest.raises(HuteroxError) as caught:
        harness.ask("create", name="s", model="m", **args)
    assert caught.value.code == "InvalidInput"
    assert harness.ask("services") == []
