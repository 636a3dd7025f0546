"""Models that cannot be resident together take turns, and none waits for ever."""

from collections import Counter

import pytest
from tests.connector.harness import CALLER, Harness, closed, created, events_of, refused

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect, Forward
from huterox_connector.core.events import CallCancelled, ContainerDrained

TICK_S = 0.05
LOAD_S = 1.0
CALL_S = 0.1
UNLOAD_S = 0.2


class Node:
    """A node under one clock: what is created becomes ready, what is closed goes, calls take their time."""

    def __init__(self, slots: int, host_mb: int, **config: object) -> None:
        true_to_life = ("residency_min_s", "residency_load_factor", "hotter_factor", "turn_after_s")
        defaults = {name: getattr(CoreConfig(), name) for name in true_to_life}
        self.harness = Harness(**{**defaults, **config})
        self.identity = self.harness.node(slots=slots, host_mb=host_mb)
        self.now_s = 0.0
        self.loads: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.waits_s: dict[str, list[float]] = {}
        self._due: list[tuple[float, int, str, int]] = []
        self._request_id = 0
        self._calls: dict[int, tuple[str, float]] = {}

    def call(self, service: str) -> None:
        self._request_id += 1
        self._calls[self._request_id] = (service, self.now_s)
        if self.harness.hit(service, self._request_id, self.now_s) is not None:
            self._serve(self._request_id)
        else:
            self._perform(self.harness.call(service, self._request_id, self.now_s, budget_s=60.0))

    def _serve(self, request_id: int) -> None:
        service, since_s = self._calls[request_id]
        self.waits_s.setdefault(service, []).append(self.now_s - since_s)
        self._due.append((self.now_s + CALL_S, len(self._due), "answer", request_id))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Forward):
                self._serve(int(effect.frames[0].removeprefix(b"frame")))
        for create in created(effects):
            self.loads[create.model.name] += 1
            self._due.append((self.now_s + LOAD_S, len(self._due), "ready", create.container))
        for close in closed(effects):
            self._due.append((self.now_s + UNLOAD_S, len(self._due), "gone", close.container))
        for refusal in refused(effects):
            service, _ = self._calls.pop(refusal.request_id)
            self.refused[service] += 1

    def step(self) -> None:
        self.now_s += TICK_S
        due = sorted(entry for entry in self._due if entry[0] <= self.now_s)
        self._due = [entry for entry in self._due if entry[0] > self.now_s]
        for _, _, what, number in due:
            self._happen(what, number)
        self.harness.beat(self.identity, self.now_s)
        self._perform(self.harness.tick(self.now_s))

    def _happen(self, what: str, number: int) -> None:
        if what == "ready":
            self._perform(self.harness.ready(self.identity, number, self.now_s, timings_s={"load": LOAD_S}))
        elif what == "gone":
            self._perform(self.harness.gone(self.identity, number, self.now_s))
        elif (call := self.harness.board.calls.get(b"caller", number)) is not None:
            self.harness.answer(self.identity, number)
            self.answered[self._calls.pop(number)[0]] += 1
            if not call.container.in_flight:
                self._perform(self.harness.on(ContainerDrained(call.container.id), self.now_s))


def test_two_models_that_cannot_coexist_take_turns_with_bounded_waiting() -> None:
    """Both are called four times a second, each takes a second to load, and the node holds one."""
    node = Node(slots=1, host_mb=1000)
    for name in ("a", "b"):
        node.harness.service(name)
    for step in range(round(120.0 / TICK_S)):
        if step % 5 == 0:
            node.call("a")
            node.call("b")
        node.step()
    assert not node.refused
    assert min(node.answered.values()) > 300
    assert max(max(waits_s) for waits_s in node.waits_s.values()) < 10.0
    # A turn is at least the load and a minimum residency of two load times: no thrashing.
    assert 10 < node.loads["a"] <= 120.0 / (2 * 3 * LOAD_S)


def test_large_one_gets_its_room_though_small_ones_come_and_go() -> None:
    """Twelve small models, room for ten of them; each that leaves makes room for another small one, never for eight."""
    node = Node(slots=10, host_mb=1000, hotter_factor=0.0, residency_load_factor=4.0)
    for number in range(12):
        node.harness.deploy(f"small{number}", host_mb=100)
        node.harness.service(f"small{number}", f"small{number}")
    node.harness.deploy("large", host_mb=800)
    node.harness.service("large", "large")
    for step in range(round(40.0 / TICK_S)):
        if step % 2 == 0:
            node.call(f"small{step // 2 % 12}")
        if step == 200:
            node.call("large")
        node.step()
        if node.answered["large"]:
            break
    assert node.answered["large"] == 1
    assert node.waits_s["large"][0] < node.harness.config.room_patience_s


class TestClaim:
    @pytest.fixture
    def harness(self) -> Harness:
        """One slot, held by something fresh for ten seconds."""
        harness = Harness(residency_min_s=10.0, claim_after_s=5.0, room_patience_s=30.0, node_timeout_s=100.0)
        node = harness.node(slots=1)
        for name in ("a", "b", "c"):
            harness.service(name)
        harness.load(node, "a", 1)
        return harness

    def test_node_is_kept_for_who_has_waited_long_and_given_back_with_the_load(self, harness: Harness) -> None:
        (node,) = harness.board.registry.nodes.values()
        harness.call("b", 2, now_s=1.0, budget_s=60.0)
        assert events_of(harness.tick(5.9), "claim") == []
        (claim,) = events_of(harness.tick(6.1), "claim")
        assert claim.reason == "b has waited 5.1 s for room: nothing else is loaded until it has it"
        assert harness.ask("nodes", now_s=6.2)[0]["claimed_for"] == "b"
        harness.call("c", 3, now_s=8.0, budget_s=60.0)
        (close,) = closed(harness.tick(10.05))
        assert node.claim is None
        assert [c.model.name for c in created(harness.gone(node.identity, close.container, 10.1))] == ["b"]

    def test_claim_ends_with_the_calls_that_wait(self, harness: Harness) -> None:
        (node,) = harness.board.registry.nodes.values()
        harness.call("b", 2, now_s=1.0, budget_s=60.0)
        harness.tick(6.1)
        assert node.claim is not None
        harness.on(CallCancelled(CALLER, 2), 7.0)
        harness.tick(7.1)
        assert node.claim is None

    def test_one_waiting_model_claims_one_node(self, harness: Harness) -> None:
        harness.node("n2", slots=1)
        harness.service("d")
        harness.load(b"n2:b1", "d", 4)
        harness.call("b", 2, now_s=1.0, budget_s=60.0)
        for now_s in (6.1, 6.2, 6.3):
            harness.tick(now_s)
        assert sum(node.claim is not None for node in harness.board.registry.nodes.values()) == 1
