"""Reserve, load, settle to what was measured; and what is remembered of it."""

import msgspec
import pytest
from tests.connector.harness import Harness, closed, created, events_of, forwarded, refused, report

from huterox_connector.core import desired, measured
from huterox_connector.core import effects as asked
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.measured import Measured
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB
from huterox_wire.errors import ResourceInterrupt
from huterox_wire.nodes import DeviceFree

GIB_MB = 1024


def node_row(harness: Harness, name: str = "n1") -> dict[str, object]:
    (row,) = [row for row in harness.ask("nodes") if row["node"] == name]
    return row


def kept(effects: list[asked.Effect]) -> list[asked.Write]:
    return [write for effect in effects if isinstance(effect, asked.Keep) for write in effect.writes]


def test_declared_footprint_is_reserved_and_settled_to_what_was_measured(harness: Harness) -> None:
    node = harness.node(host_mb=1000)
    harness.deploy("m", host_mb=400)
    harness.service("m", "m")
    (create,) = created(harness.call("m", 1))
    assert create.host_bytes == 400 * MIB
    assert node_row(harness)["host_mb_used"] == 400
    effects = harness.ready(node, create.container, now_s=2.0, host_bytes=250 * MIB, timings_s={"load": 1.5})
    assert node_row(harness)["host_mb_used"] == 250
    (ready,) = events_of(effects, "ready")
    assert (ready.details["takes"]["host_mb"], ready.details["reserved"]["host_mb"]) == (250, 400)
    (row,) = harness.ask("ps")
    assert (row["footprint_declared_mb"], row["footprint_reserved_mb"], row["footprint_measured_mb"]) == (400, 400, 250)


def test_what_was_measured_is_reserved_the_next_time_there_and_elsewhere(harness: Harness) -> None:
    node = harness.node(host_mb=1000)
    harness.deploy("m", host_mb=400)
    harness.service("m", "m")
    container = harness.load(node, "m", 1, host_bytes=250 * MIB)
    harness.admin("evict", container=harness.board.registry.containers[container].title)
    harness.gone(node, container)
    (again,) = created(harness.call("m", 2))
    assert again.host_bytes == 250 * MIB
    harness.gone(node, again.container, cause="crashed")
    harness.node("n2", host_mb=1000)
    harness.ask("drain", name="n1")
    (elsewhere,) = created(harness.call("m", 3, now_s=60.0))
    assert harness.board.registry.containers[elsewhere.container].node.name == "n2"
    assert elsewhere.host_bytes == 250 * MIB


def test_next_load_is_given_the_very_size_that_was_measured_last(harness: Harness) -> None:
    node = harness.node(host_mb=1000)
    harness.deploy("m", host_mb=400)
    harness.service("m", "m")
    container = harness.load(node, "m", 1, host_bytes=250 * MIB)
    grown = msgspec.structs.replace(report(container, "m"), host_bytes=257 * MIB)
    assert kept(harness.beat(node, 1.0, grown)) == []
    harness.admin("evict", container=harness.board.registry.containers[container].title)
    harness.gone(node, container)
    (again,) = created(harness.call("m", 2))
    assert again.host_bytes == 257 * MIB


def test_another_version_is_measured_anew(harness: Harness) -> None:
    node = harness.node(host_mb=1000)
    harness.deploy("m", host_mb=400)
    harness.service("m", "m")
    harness.load(node, "m", 1, host_bytes=250 * MIB)
    harness.deploy("m", host_mb=500, version="2")
    assert created(harness.call("m", 2))[0].host_bytes == 500 * MIB


def test_measurements_survive_the_switchboard_and_small_changes_are_not_written(harness: Harness) -> None:
    node = harness.node(host_mb=1000)
    effects = harness.admin("deploy", model={"name": "m", "entry": "m.py:M", "resources": {"host_mb": 400}})
    effects += harness.admin("create", name="m", model="m")
    harness.handles["m"] = harness.board.registry.service("default", "m").id
    (create,) = created(harness.call("m", 1))
    ready = harness.ready(node, create.container, host_bytes=250 * MIB, timings_s={"load": 1.5})
    writes = kept(ready)
    assert [write.key for write in writes] == ["footprint/m/n1"]
    assert kept(harness.beat(node, 1.0, report(create.container, "m"))) != []  # 50 MiB: noticeably less
    assert kept(harness.beat(node, 2.0, report(create.container, "m"))) == []

    stored = {w.key: w.value for e in effects if isinstance(e, asked.Commit) for w in e.writes if w.value}
    seen, unreadable = measured.decode({write.key: write.value for write in writes if write.value})
    assert not unreadable
    board = Switchboard(CoreConfig(), Term(2, mark=2), 0.0, 0.0)
    board.restore(desired.decode(stored), seen, [])
    known = board.registry.models["m"].footprints.on("n1")
    assert known is not None
    assert (known.host_bytes, known.load_s) == (250 * MIB, 1.5)


def test_measurement_of_a_version_that_is_not_deployed_any_more_is_not_used() -> None:
    harness = Harness()
    effects = harness.admin("deploy", model={"name": "m", "entry": "m.py:M", "version": "2"})
    stored = {w.key: w.value for e in effects if isinstance(e, asked.Commit) for w in e.writes if w.value}
    old = measured.StoredFootprint("m", "1", "n1", measured.Footprint(1, 0, 1.0))
    board = Switchboard(CoreConfig(), Term(2, mark=2), 0.0, 0.0)
    board.restore(desired.decode(stored), Measured([old]), [])
    assert len(board.registry.models["m"].footprints) == 0


def test_measurement_that_cannot_be_read_is_named_and_the_others_are_used() -> None:
    good = measured.Write("footprint/a/n1", b"\xc0")
    seen, unreadable = measured.decode({good.key: b"\xc1", "usage-past/t": b"", "usage/01": b"\x90"})
    assert sorted(unreadable) == ["footprint/a/n1", "usage-past/t", "usage/01"]
    assert seen == Measured()


class TestUnloading:
    """What is being unloaded still counts until its node reports it back."""

    @pytest.fixture
    def harness(self) -> Harness:
        harness = Harness()
        node = harness.node(slots=4, host_mb=1000)
        for name, host_mb in (("a", 600), ("b", 600)):
            harness.deploy(name, host_mb=host_mb)
            harness.service(name, name)
        harness.load(node, "a", 1)
        return harness

    def test_load_waits_for_the_memory_of_its_victim(self, harness: Harness) -> None:
        (victim,) = harness.board.registry.containers
        effects = harness.call("b", 2, now_s=1.0)
        assert [close.container for close in closed(effects)] == [victim]
        for now_s in (1.1, 2.0, 3.0):
            assert created(harness.beat(b"n1:b1", now_s, report(victim, "a", "draining"))) == []
            assert created(harness.tick(now_s)) == []
        assert node_row(harness)["host_mb_used"] == 600
        assert [create.model.name for create in created(harness.gone(b"n1:b1", victim, 4.0))] == ["b"]

    def test_small_plan_is_not_held_up_by_a_large_one_that_waits(self, harness: Harness) -> None:
        harness.call("b", 2, now_s=1.0)  # waits for a's memory
        harness.service("small")  # 100 MiB, which are free beside both
        assert [create.model.name for create in created(harness.call("small", 3, now_s=1.1))] == ["small"]


class TestBigLoads:
    """Big loads into the same memory go one after another."""

    @pytest.fixture
    def harness(self) -> Harness:
        harness = Harness(big_load_mb=1024, node_timeout_s=1e9)
        harness.node(slots=8, host_mb=64 * GIB_MB, gpu_mb={"gpu0": 24 * GIB_MB, "gpu1": 24 * GIB_MB})
        return harness

    def ask(self, harness: Harness, name: str, **resources: int) -> list[str]:
        device = "cuda" if resources.get("gpu_mb") else "cpu"
        harness.deploy(name, device=device, **{"host_mb": 100, **resources})
        harness.service(name, name)
        return [create.device or "host" for create in created(harness.call(name, 100 + len(harness.handles)))]

    def test_on_one_device_or_in_host_memory(self, harness: Harness) -> None:
        assert self.ask(harness, "first", gpu_mb=20 * GIB_MB) == ["gpu0"]
        assert self.ask(harness, "second", gpu_mb=20 * GIB_MB) == ["gpu1"]  # another device: side by side
        assert self.ask(harness, "third", gpu_mb=2 * GIB_MB) == []  # its device loads something big
        assert self.ask(harness, "small", gpu_mb=500) != []
        assert self.ask(harness, "host", host_mb=2 * GIB_MB) == ["host"]
        assert self.ask(harness, "host2", host_mb=2 * GIB_MB) == []

    def test_the_next_begins_when_one_is_ready(self, harness: Harness) -> None:
        self.ask(harness, "first", host_mb=2 * GIB_MB)
        self.ask(harness, "second", host_mb=2 * GIB_MB)
        (first,) = [c.id for c in harness.board.registry.containers.values() if c.model.name == "first"]
        effects = harness.ready(b"n1:b1", first, 3.0)
        assert [create.model.name for create in created(effects)] == ["second"]

    def test_the_next_begins_when_one_has_failed(self, harness: Harness) -> None:
        self.ask(harness, "first", host_mb=2 * GIB_MB)
        self.ask(harness, "second", host_mb=2 * GIB_MB)
        (first,) = [c.id for c in harness.board.registry.containers.values() if c.model.name == "first"]
        effects = harness.gone(b"n1:b1", first, 3.0, cause="load_failed", reason="boom")
        assert [create.model.name for create in created(effects)] == ["second"]


def test_deadline_of_a_load_grows_with_its_size() -> None:
    harness = Harness(load_timeout_s_per_gb=30.0)
    harness.node(slots=8, host_mb=100_000)
    for name, host_mb in (("small", 0), ("large", 10 * GIB_MB)):
        harness.deploy(name, host_mb=host_mb, load_timeout_s=60.0)
        harness.service(name, name)
    assert created(harness.call("small", 1))[0].load_timeout_s == 60.0
    assert created(harness.call("large", 2))[0].load_timeout_s == 360.0


def test_container_that_grows_takes_more_of_its_node_and_others_leave_when_it_is_too_much(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=1000)
    for number, name in enumerate(("a", "b")):
        harness.deploy(name, host_mb=400)
        harness.service(name, name)
        harness.load(node, name, number + 1, now_s=float(number))
    first, second = sorted(harness.board.registry.containers)
    grown = report(second, "b")
    grown.host_bytes = 590 * MIB
    steady = report(first, "a")
    steady.host_bytes = 400 * MIB
    assert events_of(harness.beat(node, 2.0, steady, grown), "reclaim") == []
    grown.host_bytes = 700 * MIB
    effects = harness.beat(node, 2.5, steady, grown)
    (reclaim,) = events_of(effects, "reclaim")
    assert reclaim.reason == "the node's memory is overdrawn by 100 MiB: its containers or others have grown"
    assert [close.container for close in closed(effects)] == [first]
    assert closed(harness.beat(node, 3.0, report(first, "a", "draining"), grown)) == []  # nobody else has to


class TestOutgrown:
    """A model was seen to take more than its node gives to all."""

    @pytest.fixture
    def harness(self) -> Harness:
        harness = Harness()
        node = harness.node("n1", host_mb=1000)
        harness.deploy("m", host_mb=400)
        harness.service("m", "m")
        container = harness.load(node, "m", 1, host_bytes=1200 * MIB)
        harness.gone(node, container, 5.0, cause="crashed")
        return harness

    def test_it_is_given_the_whole_node_the_next_time(self, harness: Harness) -> None:
        (create,) = created(harness.call("m", 2, now_s=6.0))
        assert create.host_bytes == 1000 * MIB

    def test_it_goes_to_no_other_node_that_is_as_small(self, harness: Harness) -> None:
        harness.ask("drain", name="n1")
        harness.node("n2", host_mb=1000, now_s=6.0)
        assert created(harness.call("m", 2, now_s=6.0)) == []

    def test_what_is_declared_too_large_is_refused_all_the_same(self, harness: Harness) -> None:
        harness.deploy("m", host_mb=1100)
        (refusal,) = refused(harness.call("m", 2, now_s=6.0))
        assert isinstance(refusal.error, ResourceInterrupt)
        assert "no node is that large" in refusal.error.message


def test_memory_that_others_take_is_not_given_to_containers_and_comes_back(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=1000, gpu_mb={"gpu0": 1000})
    harness.beat(node, 1.0, host_bytes_free=300 * MIB, devices=[DeviceFree("gpu0", 200 * MIB)])
    row = node_row(harness)
    assert (row["host_mb"], row["host_mb_limit"]) == (1000, 300)
    assert row["devices"] == [
        {"id": "gpu0", "name": "", "mb": 1000, "mb_limit": 200, "mb_used": 0, "mb_available": 200}
    ]
    harness.beat(node, 2.0, host_bytes_free=5000 * MIB, devices=[DeviceFree("gpu0", 1000 * MIB)])
    assert node_row(harness)["host_mb_limit"] == 1000


def test_what_others_have_taken_counts_before_the_first_heartbeat(harness: Harness) -> None:
    """A load for a call that has waited for a node is decided on in the instant of its registration."""
    harness.deploy("small", host_mb=200)
    harness.deploy("on device", gpu_mb=500, device="cuda")
    for number, name in enumerate(("a", "small", "on device")):
        harness.service(name, name if name != "a" else None)
        harness.call(name, number + 1)
    harness.node(
        "n1",
        slots=4,
        host_mb=1000,
        gpu_mb={"gpu0": 1000},
        host_bytes_free=250 * MIB,
        devices=[DeviceFree("gpu0", 400 * MIB)],
    )
    (container,) = harness.board.registry.containers.values()
    row = node_row(harness)
    assert (row["host_mb_limit"], row["devices"][0]["mb_limit"]) == (250, 400)
    assert container.charge.host_bytes <= 250 * MIB


def test_a_kernel_that_does_not_tell_what_is_free_keeps_what_its_heartbeats_told(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=1000)
    harness.beat(node, 1.0, host_bytes_free=300 * MIB)
    assert harness.node(slots=4, host_mb=1000, now_s=2.0) == node
    assert node_row(harness)["host_mb_limit"] == 300


def test_line_is_forwarded_when_the_load_is_done_and_late_news_is_ignored(harness: Harness) -> None:
    node = harness.node()
    harness.service("a")
    (create,) = created(harness.call("a", 1))
    assert len(forwarded(harness.ready(node, create.container))) == 1
    assert harness.ready(node, create.container) == []  # told twice
