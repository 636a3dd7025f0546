"""What leaves although nobody needs its room."""

from tests.connector.harness import CALLER, Harness, call_header, closed, created, events_of, forwarded, refused, usage
from tests.connector.harness import report as reported


def idle_model(harness: Harness, name: str = "m", idle_timeout_s: float = 10.0, tier: str = "shared") -> bytes:
    node = harness.node(slots=4)
    harness.deploy(name, idle_timeout_s=idle_timeout_s)
    harness.service(name, name, tier=tier)
    harness.load(node, name, 1)
    return node


def test_container_that_has_been_idle_past_its_time_is_closed() -> None:
    harness = Harness(node_timeout_s=1e9)
    idle_model(harness)
    assert closed(harness.tick(9.9)) == []
    effects = harness.tick(10.1)
    assert len(closed(effects)) == 1
    (reclaim,) = events_of(effects, "reclaim")
    assert reclaim.reason == "idle for 10 s"


def test_every_call_begins_the_time_anew_those_in_lanes_too() -> None:
    harness = Harness(node_timeout_s=1e9)
    node = idle_model(harness)
    harness.hit("m", 2, now_s=6.0)
    harness.answer(node, 2)
    assert closed(harness.tick(12.0)) == []
    (container,) = harness.board.registry.containers
    lane = usage(harness.handles["m"], calls=1, idle_s=0.5)
    harness.beat(node, 15.5, reported(container, "m", lane_usage=[lane]))
    assert closed(harness.tick(24.9)) == []
    assert len(closed(harness.tick(26.0))) == 1


def test_call_in_flight_keeps_it_however_long_it_takes() -> None:
    harness = Harness(node_timeout_s=1e9)
    node = idle_model(harness)
    header = call_header(harness.handles["m"], 2, budget_us=1_000_000_000)
    assert harness.board.calls.hit(CALLER, header, 0, 1.0) is not None
    for now_s in (11.0, 50.0, 100.0):
        assert closed(harness.tick(now_s)) == []
    harness.answer(node, 2)
    assert len(closed(harness.tick(102.0))) == 1


def test_pinned_container_is_never_idle_for_too_long() -> None:
    harness = Harness(node_timeout_s=1e9)
    idle_model(harness, tier="pinned")
    assert closed(harness.tick(1e6)) == []
    harness.ask("unpin", name="m")
    assert len(closed(harness.tick(1e6 + 2.0))) == 1


def test_model_that_no_service_points_to_is_closed(harness: Harness) -> None:
    node = harness.node(slots=4)
    harness.deploy("m")
    for name in ("first", "second"):
        harness.service(name, "m")
    harness.load(node, "first", 1)
    assert closed(harness.admin("delete", name="first")) == []
    effects = harness.admin("delete", name="second")
    assert len(closed(effects)) == 1
    assert [event.reason for event in events_of(effects, "reclaim")] == ["no service points to it"]


def test_load_that_nobody_waits_for_any_more_is_stopped_with_its_last_service(harness: Harness) -> None:
    harness.node(slots=4)
    harness.service("m")
    (create,) = created(harness.call("m", 1))
    effects = harness.admin("delete", name="m")
    assert [refusal.error.code for refusal in refused(effects)] == ["NotFound"]
    assert [close.container for close in closed(effects)] == [create.container]


def test_call_that_races_an_idle_close_is_loaded_anew_and_not_lost() -> None:
    harness = Harness(node_timeout_s=1e9)
    node = idle_model(harness)
    (old,) = [close.container for close in closed(harness.tick(10.1))]
    assert harness.hit("m", 2, now_s=10.1) is None
    (create,) = created(harness.call("m", 2, now_s=10.1))
    assert create.container != old
    harness.gone(node, old, 10.2)
    assert [forward.frames for forward in forwarded(harness.ready(node, create.container, 11.0))] == [[b"frame2"]]


def test_watches_of_containers_that_have_gone_do_not_pile_up() -> None:
    harness = Harness(node_timeout_s=1e9)
    node = harness.node(slots=1)
    harness.deploy("m", idle_timeout_s=1e6)
    harness.service("m", "m")
    for round_ in range(300):
        container = harness.load(node, "m", round_ + 1)
        harness.gone(node, container, cause="crashed")
    assert len(harness.board._reclaim._due) < 100
