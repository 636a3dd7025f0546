"""The calls in flight: which container has them, until when, and the counters that a hit moves.

The way back needs no look-up, since the answer carries its caller's identity. This table is kept all the same: for
deadlines, for failures, and so that nothing is answered twice.
"""

import struct
from collections.abc import Collection, Set
from typing import Any, Final

from huterox_connector.core.accesses import Accesses
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.ids import RouteSource
from huterox_connector.core.records import Container, Node, Service
from huterox_wire.errors import HuteroxError
from huterox_wire.header import HEADER, HEADER_NBYTES, MAGIC, VERSION, unpack_header
from huterox_wire.kinds import FLAGS_KNOWN, Kind
from huterox_wire.limits import BUDGET_US_MAX, META_NBYTES_MAX, TENSORS_MAX
from huterox_wire.route import CALLER, NUMBER

_CALL: Final = int(Kind.CALL)
_PART: Final = int(Kind.PART)
_REPLY: Final = int(Kind.REPLY)
_ERROR: Final = int(Kind.ERROR)
_START: Final = struct.Struct("<HBB")
_START_OF_CALL: Final = (MAGIC, VERSION, _CALL)
_ANSWER: Final = struct.Struct("<3xB4xQ8xQ")  # of a header: kind, request id, microseconds that the worker was busy

SHARED_S: Final = 1.0
"""How long after two callers have taken turns on a node its containers are given only a few calls at a time."""

CallKey = tuple[bytes, int]
"""What a call is found by: its caller's identity and its request id."""


class Call:
    """One call that a container has. A plain slots class: it is made on the hot path."""

    __slots__ = ("caller", "container", "deadline_s", "nbytes", "request_id", "route", "service")

    def __init__(
        self,
        caller: bytes,
        request_id: int,
        service: Service,
        container: Container,
        deadline_s: float,
        nbytes: int,
        route: bytes,
    ) -> None:
        self.caller = caller
        self.request_id = request_id
        self.service = service
        self.container = container
        self.deadline_s = deadline_s
        self.nbytes = nbytes
        self.route = route


def shortest_queue(ready: list[Container]) -> Container:
    """Hot path. The replica with the fewest calls now; of equals the one that has been ready for longest."""
    best = ready[0]
    fewest = best.in_flight + best.lane_calls
    for container in ready:
        if not fewest:
            break
        calls = container.in_flight + container.lane_calls
        if calls < fewest:
            best, fewest = container, calls
    return best


class Calls:
    """All calls in flight."""

    def __init__(
        self, services: dict[int, Service], accesses: Accesses, routes: RouteSource, config: CoreConfig
    ) -> None:
        self._services = services
        self._accesses = accesses
        self._table: dict[CallKey, Call] = {}
        self._of_caller: dict[bytes, int] = {}
        self._nbytes = 0
        self._given_up: dict[bytes, int] = {}  # by kernel: bytes of calls that it may not have read
        self._routes = routes
        self._config = config
        self._calls_max = config.calls_max
        self._of_caller_max = config.calls_per_caller_max
        self._of_container_max = config.calls_per_container_max
        self._depth_max = config.turn_calls_max
        self._timeout_s = config.call_timeout_s

    def __len__(self) -> int:
        return len(self._table)

    @property
    def upcoming(self) -> int:
        """The number of the next call. All that are in flight have smaller ones."""
        return self._routes.upcoming

    def __contains__(self, key: CallKey) -> bool:
        return key in self._table

    def get(self, caller: bytes, request_id: int) -> Call | None:
        return self._table.get((caller, request_id))

    def at(self, kernel: bytes, route: bytes, request_id: int) -> Call | None:
        """The call that `kernel` was sent by this route. None: it has ended, or that kernel never had it."""
        call = self._table.get((route[CALLER], request_id))
        return call if call is not None and call.route == route and call.container.node.identity == kernel else None

    def hit(self, caller: bytes, first: Any, nbytes: int, now_s: float) -> Call | None:
        """Hot path. Enter a call whose container is ready; it is sent by its route. None: no hit, nothing was changed.

        Args:
            first: the message's first frame, anything with the buffer protocol.
            nbytes: size of all frames.
        """
        if len(first) < HEADER_NBYTES:
            return None
        magic, version, kind, flags, tensors, request_id, handle, budget_us, meta_nbytes, zero = HEADER.unpack_from(
            first
        )
        if kind != _CALL or magic != MAGIC or version != VERSION or flags & ~FLAGS_KNOWN or zero:
            return None
        if tensors > TENSORS_MAX or meta_nbytes > META_NBYTES_MAX or budget_us > BUDGET_US_MAX:
            return None
        service = self._services.get(handle)
        if service is None:
            return None
        group = service.group
        if not (ready := group.ready):
            return None
        container = ready[0] if len(ready) == 1 else shortest_queue(ready)
        key = (caller, request_id)
        in_flight = self._of_caller.get(caller, 0)
        node = container.node
        if caller != node.caller:
            if node.caller:
                node.shared_s = now_s
            node.caller = caller
        if (
            group.waiting
            or container.in_flight >= self._of_container_max
            or (container.in_flight >= (group.depth or self._depth_max) and now_s - node.shared_s < SHARED_S)
            or in_flight >= self._of_caller_max
            or len(self._table) >= self._calls_max
            or self._nbytes + nbytes > self._config.calls_nbytes_max
            or (service.in_flight_max and service.in_flight >= service.in_flight_max)
            or key in self._table
        ):
            return None
        deadline_s = now_s + (budget_us * 1e-6 if budget_us else self._timeout_s)
        route = self._routes.next(container.id, caller)
        self._table[key] = call = Call(caller, request_id, service, container, deadline_s, nbytes, route)
        self._of_caller[caller] = in_flight + 1
        self._nbytes += nbytes
        self._count_hit(service, container, now_s)
        group.calls += 1
        node.replacer.record_access(container.id)
        return call

    def addressed(self, first: Any) -> tuple[Service, int, int] | None:
        """The service that a CALL is for, its request id and its budget. None: it is none, or is not sound."""
        if len(first) < HEADER_NBYTES or _START.unpack_from(first) != _START_OF_CALL:
            return None
        try:
            header = unpack_header(first)
        except HuteroxError:
            return None
        service = self._services.get(header.handle)
        return None if service is None else (service, header.request_id, header.budget_us)

    def has_room(self, container: Container, now_s: float) -> bool:
        """Whether it takes another call now: fewer where others want to call on that node, too."""
        shared = now_s - container.node.shared_s < SHARED_S
        if shared and container.in_flight >= (container.group.depth or self._depth_max):
            return False
        return container.in_flight < self._of_container_max

    def _count_hit(self, service: Service, container: Container, now_s: float) -> None:
        """Hot path."""
        container.in_flight += 1
        container.hits += 1
        container.last_hit_s = service.last_hit_s = now_s
        service.hits += 1
        service.in_flight += 1
        if not service.accessed:
            self._accesses.note(service)

    def enter(
        self,
        caller: bytes,
        request_id: int,
        service: Service,
        container: Container,
        deadline_s: float,
        nbytes: int,
        now_s: float,
    ) -> Call:
        """Enter a call that waited for its container. The waiting line has its own bounds, and has counted it."""
        route = self._routes.next(container.id, caller)
        call = Call(caller, request_id, service, container, deadline_s, nbytes, route)
        self._table[call.caller, call.request_id] = call
        self._of_caller[call.caller] = self._of_caller.get(call.caller, 0) + 1
        self._nbytes += call.nbytes
        self._count_hit(call.service, call.container, now_s)
        if call.container.group is not call.service.group:
            call.container.borrowed += 1
        return call

    def answered(self, kernel: bytes, route: bytes, first: Any) -> Call | None:
        """Hot path. The call that an answer belongs to; it has ended unless the answer is a PART.

        None: this is no answer that somebody waits for. The deadline passed, or the kernel does not have that call, or
        it answers an earlier call that bore the same request id.
        """
        kind, request_id, busy_us = _ANSWER.unpack_from(first)
        key = (route[CALLER], request_id)
        call = self._table.get(key)
        if call is None or call.route != route or call.container.node.identity != kernel:
            return None
        if kind == _REPLY:
            self._forget(key, call)
        elif kind == _ERROR:
            self._forget(key, call)
            call.service.errors += 1
            call.container.errors += 1
        elif kind != _PART:
            return None
        call.service.busy_s += busy_us * 1e-6
        return call

    def drop(self, call: Call) -> None:
        """End a call without an answer from its container."""
        call.service.errors += 1
        self._forget((call.caller, call.request_id), call)

    def give_up(self, call: Call) -> None:
        """Nobody waits for its answer any more. Its bytes may still wait for its kernel to read them: they count."""
        self.drop(call)
        kernel = call.container.node.identity
        self._given_up[kernel] = self._given_up.get(kernel, 0) + call.nbytes
        self._nbytes += call.nbytes

    def heard(self, kernel: bytes) -> None:
        """It reads what it is sent; or it has gone, and is sent nothing more."""
        if self._given_up:
            self._nbytes -= self._given_up.pop(kernel, 0)

    def take_back(self, call: Call) -> None:
        """A call that its container had not started goes elsewhere."""
        self._forget((call.caller, call.request_id), call)

    def _forget(self, key: CallKey, call: Call) -> None:
        """Hot path."""
        del self._table[key]
        container = call.container
        container.in_flight -= 1
        call.service.in_flight -= 1
        if container.borrowed and container.group is not call.service.group:
            container.borrowed -= 1
        self._nbytes -= call.nbytes
        left = self._of_caller[call.caller] - 1
        if left:
            self._of_caller[call.caller] = left
        else:
            del self._of_caller[call.caller]

    def room_for(self, caller: bytes, waiting: int, nbytes: int) -> bool:
        """Whether the limits leave room for one more call, with `waiting` others not yet in this table."""
        return (
            len(self._table) + waiting < self._calls_max
            and self._of_caller.get(caller, 0) < self._of_caller_max
            and self._nbytes + nbytes <= self._config.calls_nbytes_max
        )

    def expired(self, now_s: float) -> list[Call]:
        return [call for call in self._table.values() if call.deadline_s <= now_s]

    def of_node(self, node: Node) -> list[Call]:
        """All that a node has, also for containers that have gone from there."""
        return [call for call in self._table.values() if call.container.node is node]

    def lost_at(self, node: Node, before: int, held: Collection[int]) -> list[Call]:
        """The node's calls that were sent before the one numbered `before`, and are not among those that it has."""
        calls = [(call, int.from_bytes(call.route[NUMBER], "little")) for call in self.of_node(node)]
        return [call for call, number in calls if number < before and number not in held]

    def ids_of(self, caller: bytes) -> list[int]:
        return [call.request_id for call in self._table.values() if call.caller == caller]

    def of_callers(self, callers: Set[bytes]) -> list[Call]:
        return [call for call in self._table.values() if call.caller in callers]

    def callers(self, before: int) -> set[bytes]:
        """Whose calls were sent before the one numbered `before`."""
        numbers = ((call, int.from_bytes(call.route[NUMBER], "little")) for call in self._table.values())
        return {call.caller for call, number in numbers if number < before}

    def of_container(self, container: Container) -> list[Call]:
        return [call for call in self._table.values() if call.container is container]
