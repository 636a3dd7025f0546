"""The accessed bits, and who pays for memory."""

import pytest
from tests.connector.harness import Harness, report

from huterox_connector.core import desired, measured
from huterox_connector.core import effects as asked
from huterox_connector.core.accesses import SWEPT_MAX
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB

WINDOW_S = 10.0


@pytest.fixture
def harness() -> Harness:
    harness = Harness(accessed_window_s=WINDOW_S, node_timeout_s=1e9)
    harness.node(slots=4, host_mb=1000)
    harness.deploy("m", host_mb=50)
    for name, tenant in (("a", "t1"), ("b", "t2")):
        harness.service(name, "m", tenant=tenant)
    return harness


def bits(harness: Harness) -> dict[str, list[str]]:
    return {row["name"]: row["bits"] for row in harness.ask("services")}


def byte_s(harness: Harness) -> dict[str, float]:
    return {row["tenant"]: row["host_byte_s"] / MIB for row in harness.ask("usage")}


def beat_until(harness: Harness, container: int, until_s: float) -> None:
    """A heartbeat each second, and the ticks in between."""
    start_s = harness.board.registry.containers[container].counted_s
    for second in range(int(start_s) + 1, int(until_s) + 1):
        harness.beat(b"n1:b1", float(second), report(container, "m"))  # 50 MiB
        harness.tick(float(second))


def test_bit_is_set_by_a_call_and_lasts_for_one_to_two_windows(harness: Harness) -> None:
    harness.load(b"n1:b1", "a", 1, now_s=1.0)
    assert bits(harness) == {"a": ["present", "accessed"], "b": ["present"]}
    harness.tick(WINDOW_S + 0.1)
    assert bits(harness)["a"] == ["present", "accessed"]
    harness.tick(2 * WINDOW_S + 0.2)
    assert bits(harness)["a"] == ["present"]


def test_loading_pinned_and_dedicated_are_bits_too(harness: Harness) -> None:
    harness.service("p", "m", tier="pinned")
    harness.service("d", "m", tier="dedicated")
    harness.call("a", 1)
    assert bits(harness) == {
        "a": ["loading", "pinned"],  # one pinned service pins the containers of all
        "b": ["loading", "pinned"],
        "p": ["loading", "pinned"],
        "d": ["dedicated"],
    }


def test_memory_is_charged_to_who_used_it(harness: Harness) -> None:
    container = harness.load(b"n1:b1", "a", 1, now_s=0.0, host_bytes=50 * MIB)
    beat_until(harness, container, WINDOW_S)
    assert byte_s(harness) == {"t1": pytest.approx(500.0), "t2": 0.0}


def test_memory_is_shared_in_equal_parts_by_those_who_used_it(harness: Harness) -> None:
    container = harness.load(b"n1:b1", "a", 1, now_s=0.0, host_bytes=50 * MIB)
    harness.hit("b", 2, now_s=5.0)
    beat_until(harness, container, WINDOW_S)
    assert byte_s(harness) == {"t1": pytest.approx(250.0), "t2": pytest.approx(250.0)}


def test_who_used_it_last_goes_on_paying_while_it_stays(harness: Harness) -> None:
    container = harness.load(b"n1:b1", "b", 1, now_s=0.0, host_bytes=50 * MIB)
    beat_until(harness, container, 5 * WINDOW_S)
    assert byte_s(harness) == {"t1": 0.0, "t2": pytest.approx(2500.0)}


def test_nothing_is_paid_for_what_is_not_there(harness: Harness) -> None:
    container = harness.load(b"n1:b1", "a", 1, now_s=0.0, host_bytes=50 * MIB)
    beat_until(harness, container, WINDOW_S)
    harness.ask("evict", container=harness.board.registry.containers[container].title)
    harness.gone(b"n1:b1", container, WINDOW_S)
    for second in range(11, 60):
        harness.tick(float(second))
    assert byte_s(harness)["t1"] == pytest.approx(500.0)


def test_usage_of_a_deleted_service_stays_with_its_tenant(harness: Harness) -> None:
    container = harness.load(b"n1:b1", "a", 1, now_s=0.0, host_bytes=50 * MIB)
    beat_until(harness, container, WINDOW_S)
    harness.ask("delete", name="a", tenant="t1")
    (row,) = harness.ask("usage", tenant="t1")
    assert (row["services"], row["calls"], row["host_byte_s"]) == (0, 1, pytest.approx(500 * MIB))


def test_usage_survives_the_switchboard_and_goes_on(harness: Harness) -> None:
    """What is kept at the end of a window is what the next switchboard begins with."""
    stored: dict[str, bytes] = {}

    def keep(effects: list[asked.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, asked.Keep | asked.Commit):
                stored.update({write.key: write.value for write in effect.writes if write.value is not None})

    keep(harness.admin("deploy", model={"name": "m", "entry": "m.py:M", "resources": {"host_mb": 50}}))
    keep(harness.admin("create", name="c", model="m", tenant="t3"))
    harness.handles["c"] = harness.board.registry.service("t3", "c").id
    container = harness.load(b"n1:b1", "c", 1, now_s=0.0, host_bytes=50 * MIB)
    for second in range(1, 11):
        keep(harness.beat(b"n1:b1", float(second), report(container, "m")))
        keep(harness.tick(float(second)))
    board = Switchboard(harness.config, Term(2, mark=2), clock_offset_s=2000.0, started_s=0.0)
    seen, unreadable = measured.decode(stored)
    assert not unreadable
    board.restore(desired.decode(stored), seen, [])
    service = board.registry.service("t3", "c")
    assert (service.hits, service.faults) == (1, 1)
    assert service.host_byte_s == pytest.approx(500 * MIB)


def test_end_of_a_window_takes_several_ticks_where_many_models_are_in_use() -> None:
    harness = Harness(node_timeout_s=1e9)
    harness.node("n1", slots=800, host_mb=100_000)
    for number in range(3 * SWEPT_MAX):
        name = f"m{number}"
        harness.service(name)
        harness.load(b"n1:b1", name, number + 1)

    def written(now_s: float) -> int:
        keeps = [effect for effect in harness.tick(now_s) if isinstance(effect, asked.Keep)]
        return sum(len(keep.writes) for keep in keeps)

    assert [written(10.0 + tick / 4) for tick in range(5)] == [SWEPT_MAX] * 3 + [0] * 2
    assert all("accessed" in row["bits"] for row in harness.ask("services"))
