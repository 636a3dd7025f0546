"""The callers of the simulated platform: what they ask for, and that each call ends once, and in time."""

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from tests.simulation.records import SimCall, SimContainer, SimKernel

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.lifecycle import State
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.route import CALLER, CONTAINER

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = tuple[bytes, int]
"""A call by its caller and request id."""
Sent = tuple[bytes, int]
"""A call by its route and request id, as a kernel knows it."""

LATE_S = 0.2
"""How long after its deadline a call may end: two ticks."""
LARGE_NBYTES = 300_000
UNKNOWN_HANDLE = 999
REUSED = 0.3
"""How often a caller gives a call the request id of one that ended a moment ago, without its answer."""


class Callers:
    """Calls by the switchboard; those past it are in `lanes`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.open: dict[Key, SimCall] = {}
        self._ends: dict[Key, str] = {}
        self._routes: dict[bytes, SimCall] = {}  # what each route was given to
        self._given_up: deque[Key] = deque(maxlen=4)  # ended a moment ago, perhaps not yet for its container
        self.made: Counter[int] = Counter()  # handle -> calls that were forwarded, ever

    def switchboard_started(self) -> None:
        """Callers of the old one give up."""
        self.open.clear()

    def call(self, handle: int | None = None, budget_s: float | None = None) -> None:
        world, random = self._world, self._world.random
        if handle is None:
            handles = world.operator.handles
            # The first are called most.
            handle = handles[int(len(handles) * random.random() ** 2)] if handles else UNKNOWN_HANDLE
        caller, request_id = self._new_key()
        if budget_s is None:
            budget_s = random.choice([0.05, 0.5, 1.5, 0.0])  # 0: the switchboard's own limit
        nbytes = LARGE_NBYTES if random.random() < 0.1 else 0
        budget_us = int(budget_s * 1e6)
        header = pack_header(Kind.CALL, Flag.PACKED, 0, request_id, handle, budget_us)
        deadline_s = world.now_s + (budget_s or world.config.call_timeout_s)
        self.open[caller, request_id] = SimCall(caller, request_id, handle, deadline_s)
        call = world.board.calls.hit(caller, header, nbytes, world.now_s)
        if call is not None:
            assert call.container.state is State.READY
            world.seen["hit"] += 1
            self.forwarded(call.container.node.identity, call.route, [header, nbytes], 0)
            world.tell_failures()
            return
        frames, all_nbytes = [header, nbytes], len(header) + nbytes
        if not world.join(caller, frames, all_nbytes):
            world.on(happened.CallMissed(caller, request_id, handle, budget_us, frames, all_nbytes))

    def _new_key(self) -> Key:
        """A caller, and a request id that none of its open calls has."""
        world, random = self._world, self._world.random
        if self._given_up and random.random() < REUSED:
            world.seen["reused"] += 1
            key = self._given_up.pop()
            del self._ends[key]
            return key
        return b"caller%d" % random.randrange(4), world.request_id()

    def cancel(self) -> None:
        if self.open:
            call = self._world.random.choice(list(self.open.values()))
            self._world.on(happened.CallCancelled(call.caller, call.request_id))

    def leave(self) -> None:
        """A caller's connection ends: nobody waits for its calls any more."""
        callers = sorted({caller for caller, _ in self.open})
        if callers:
            caller = self._world.random.choice(callers)
            for key in [key for key in self.open if key[0] == caller]:
                self.ended(key, "left")
            self._world.lanes.caller_left(caller)
            self._world.seen["left"] += 1
            self._world.on(happened.CallersGone(frozenset({caller})))

    def stall(self) -> None:
        """A caller does not read, and part of a reply cannot be sent to it."""
        calls = [call for key in self.open if (call := self._world.board.calls.get(*key)) is not None]
        if calls:
            call = self._world.random.choice(calls)
            self._world.seen["stalled"] += 1
            self._world.on(happened.CallerStalled(call.caller, call.request_id))
            assert (call.caller, call.request_id) not in self.open, "a stalled call goes on"

    def ended(self, key: Key, how: str) -> bool:
        """An answer or an error has reached its caller."""
        call = self.open.pop(key, None)
        if call is None:
            assert key not in self._ends, f"call {key} was answered twice: {self._ends[key]} and {how}"
            return False
        self._ends[key] = how
        if how != Kind.REPLY.name:
            self._given_up.append(key)
        late_s = self._world.now_s - call.deadline_s
        assert late_s <= LATE_S, f"call {key} ended {late_s:.3f} s late"
        return True

    # On their way.

    def forwarded(self, identity: bytes, route: bytes, frames: list[Any], budget_us: int) -> None:
        """The switchboard sends a call to a kernel."""
        world = self._world
        header = frames[0]
        caller, container_id = route[CALLER], int.from_bytes(route[CONTAINER], "little")
        request_id = int.from_bytes(header[8:16], "little")
        key = caller, request_id
        call = self.open.get(key)
        assert call is not None, f"call {key} is forwarded after its end, {self._ends.get(key)}"
        left_s = call.deadline_s - world.now_s
        assert not budget_us or budget_us <= max(1, left_s * 1e6 + 1), f"call {key} was given time"
        assert route not in self._routes, "two calls have one route"
        self._routes[route] = call
        world.seen["forwarded"] += 1
        world.decisions.forwarded(key)
        self.made[call.handle] += 1
        world.lanes.told.forwarded(call.handle, container_id)
        kernel = world.kernels.all.get(identity)
        if kernel is None or not kernel.alive:
            gone = world.random.random() < 0.8
            world.not_sent(happened.Undelivered(caller, request_id, frames, len(header) + frames[1]), gone)
            world.after(0.0, lambda: world.on(happened.KernelUnreachable(identity)))
        elif kernel.reachable:
            self._arrived(kernel, container_id, (route, request_id), frames)

    def _arrived(self, kernel: SimKernel, container_id: int, sent: Sent, frames: list[Any]) -> None:
        """A kernel takes a call in, or hands it back: its container has gone, or is about to."""
        world = self._world
        container = kernel.containers.get(container_id)
        if container is None or (container.state == "draining" and world.random.random() < 0.5):
            kernel.returning.add(sent)
            world.after(0.001, lambda: self.returned(kernel, sent, frames[1]))
            return
        self._check_is_meant(container, sent)
        assert container.state in ("ready", "draining"), f"a call came to a container that is {container.state}"
        container.calls.add(sent)
        container.routed += 1
        world.after(world.random.expovariate(1 / 0.05), lambda: self._served(kernel, container, sent))

    def _check_is_meant(self, container: SimContainer, sent: Sent) -> None:
        """A call reaches no other service's container than those of the one that it was opened for."""
        key = sent[0][CALLER], sent[1]
        call = self._world.board.calls.get(*key)
        assert call is not None
        record, service = call.container, call.service
        self._world.operator.check_handle(self.open[key].handle, service)
        believed = record.spec.params["deployment"]
        assert container.deployment == believed, f"{record.title} runs {container.deployment}, and not {believed}"
        owner = self._world.board.registry.services.get(record.group.key[1])
        made_for = owner.info["creation"] if owner is not None else ""
        gone = record.group.key[1] and owner is None
        assert gone or container.made_for == made_for, f"{record.title} was made for {container.made_for}"

    def returned(self, kernel: SimKernel, sent: Sent, nbytes: int = 0) -> None:
        """A kernel hands a call back: it was not begun."""
        kernel.returning.discard(sent)
        if not kernel.alive or not kernel.reachable:
            return
        self._world.seen["returned"] += 1
        header = pack_header(Kind.CALL, Flag.PACKED, 0, sent[1], self._routes[sent[0]].handle)
        frames = [header, nbytes]
        self._world.on(happened.CallReturned(kernel.identity, *sent, frames, len(header) + nbytes))

    def _served(self, kernel: SimKernel, container: SimContainer, sent: Sent) -> None:
        if not kernel.alive or container.id not in kernel.containers or sent not in container.calls or container.hangs:
            return
        if self._world.random.random() < 0.05:
            self.answer(kernel, sent, Kind.PART)
            self._world.after(0.05, lambda: self._served(kernel, container, sent))
            return
        container.calls.discard(sent)
        self.answer(kernel, sent, Kind.REPLY)

    def answer(self, kernel: SimKernel, sent: Sent, kind: Kind) -> None:
        """A kernel answers; the switchboard passes it on where somebody still waits."""
        world = self._world
        if not kernel.reachable:
            return
        route, request_id = sent
        key = route[CALLER], request_id
        header = pack_header(kind, Flag.PACKED, 0, request_id, 0, 1000)
        call = world.board.calls.answered(kernel.identity, route, header)
        if call is None:
            return
        assert self.open.get(key) is self._routes[route], f"call {key} is given the answer to an earlier one"
        if kind is Kind.PART:
            return
        assert self.ended(key, kind.name), f"nobody has made call {key}"
        if call.container.group.waiting:
            world.seen["turn"] += 1
            world.on(happened.ContainerFreed(call.container.id))
        if call.container.state is State.DRAINING and not call.container.in_flight:
            world.on(happened.ContainerDrained(call.container.id))

    def cancel_arrived(self, effect: asked.CancelCall) -> None:
        """A call that runs already may run on."""
        kernel = self._world.kernels.all.get(effect.kernel)
        container = kernel.containers.get(int.from_bytes(effect.route[CONTAINER], "little")) if kernel else None
        sent = (effect.route, effect.request_id)
        known = kernel is not None and kernel.alive and container is not None and sent in container.calls
        if known and self._world.random.random() < 0.5:
            container.calls.discard(sent)
            self.answer(kernel, sent, Kind.ERROR)
