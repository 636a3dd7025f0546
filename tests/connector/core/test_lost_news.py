"""Messages between switchboard and kernel that are lost: heartbeats, which tell of everything, make them good."""

from tests.connector.harness import CALLER, Harness, created, events_of, forwarded, report

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.lifecycle import State
from huterox_connector.core.vectors import MIB
from huterox_wire.nodes import Capacity, RegisteredMeta, RegisterMeta


def asks_to_register(effects: list[asked.Effect]) -> bool:
    metas = [effect.meta for effect in effects if isinstance(effect, asked.Command)]
    return any(isinstance(meta, RegisteredMeta) and meta.again for meta in metas)


def test_create_that_was_lost_is_given_up_and_the_model_is_loaded_anew(harness: Harness) -> None:
    node = harness.node()
    harness.service("m")
    (lost,) = created(harness.call("m", 1, budget_s=60.0))
    other = report(77, "m")  # an other's: what is reported is not what was ordered
    harness.beat(node, 9.0, other)
    assert harness.board.registry.containers[lost.container].state is State.CREATING
    effects = harness.beat(node, 10.5, other)
    assert [e.reason for e in events_of(effects, "gone")] == ["its kernel does not have it"]
    assert len(created(effects)) == 1


def test_container_that_a_heartbeat_tells_is_ready_takes_the_calls_that_waited(harness: Harness) -> None:
    node = harness.node()
    harness.service("m")
    (create,) = created(harness.call("m", 1))
    effects = harness.beat(node, 1.0, report(create.container, "m", "ready"))
    assert len(forwarded(effects)) == 1
    assert harness.board.calls.get(CALLER, 1) is not None


def test_container_whose_end_was_lost_is_given_up(harness: Harness) -> None:
    node = harness.node()
    harness.service("m")
    harness.load(node, "m", 1)
    effects = harness.beat(node, 10.5, report(77, "m"))
    assert len(events_of(effects, "gone")) == 1
    assert not harness.board.registry.containers


def test_kernel_that_tells_of_an_unknown_container_is_asked_to_register(harness: Harness) -> None:
    node = harness.node()
    assert asks_to_register(harness.beat(node, 1.0, report(77, "m")))
    assert not asks_to_register(harness.beat(node, 1.5))


def test_what_is_loading_will_take_memory_that_is_still_free(harness: Harness) -> None:
    """Free is what nobody has taken yet; what a load has reserved and not taken is not free for a second one."""
    node = harness.node(slots=4, host_mb=1000)
    for name in ("a", "b"):
        harness.deploy(name, host_mb=400)
        harness.service(name, name)
    (load,) = created(harness.call("a", 1))
    loading = report(load.container, "a", "creating")  # holds 50 MiB of its 400
    harness.beat(node, 0.5, loading, host_bytes_free=600 * MIB)
    assert created(harness.call("b", 2, now_s=0.6)) == []
    harness.beat(node, 1.0, loading, host_bytes_free=800 * MIB)
    assert len(created(harness.tick(1.2))) == 1


def test_plan_whose_room_others_have_taken_is_given_up_and_loaded_elsewhere(harness: Harness) -> None:
    node = harness.node(slots=1, host_mb=1000)
    for name in ("a", "b"):
        harness.deploy(name, host_mb=800)
        harness.service(name, name)
    first = harness.load(node, "a", 1)
    harness.call("b", 2, now_s=1.0)  # plans it: `a` leaves
    harness.beat(node, 1.1, report(first, "a", "draining"), host_bytes_free=100 * MIB)
    assert created(harness.gone(node, first, 1.2)) == []
    harness.node("n2", host_mb=1000, now_s=1.3)
    effects = harness.beat(node, 1.5, host_bytes_free=100 * MIB)
    assert [effect.kernel for effect in effects if getattr(effect, "meta", None) in created(effects)] == [b"n2:b1"]


def test_container_that_is_found_loading_counts_as_what_it_will_take(harness: Harness) -> None:
    harness.deploy("m", host_mb=300)
    harness.service("m", "m")
    harness.node("n1", containers=[report(77, "m", "creating")])  # holds 50 MiB as yet
    assert harness.board.registry.containers[77].charge.host_bytes == 300 * MIB


def test_container_that_is_found_and_that_no_service_shares_is_closed(harness: Harness) -> None:
    harness.deploy("m")
    harness.node("n1", containers=[report(77, "m")])
    assert harness.board.registry.containers[77].state is not State.READY
    assert not harness.board.registry.groups


def test_registering_again_does_not_forget_what_others_have_taken(harness: Harness) -> None:
    node = harness.node("n1", host_mb=1000)
    harness.beat(node, 0.5, host_bytes_free=200 * MIB)
    again = RegisterMeta("n1", "b1", 1, "host", Capacity(2, 1000 * MIB), [])
    harness.on(happened.KernelRegistered(node, again), 0.7)
    assert harness.board.registry.nodes[node].limit.host_bytes == 200 * MIB
