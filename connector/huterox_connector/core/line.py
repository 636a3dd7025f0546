"""The calls that wait for the containers of one group: who is next, and who must go where the line is full.

Problem: in a line in order of arrival, one caller with a thousand calls makes all others wait for all of them. Idea:
services take turns, and within a service its callers do. So a call waits for one of each other that is in line, and not
for all that came before it. Full: whoever has the most in line loses his newest call to one that has less.

Source: Nagle 1985, "On Packet Switches With Infinite Storage" (RFC 970), taking turns; McKenney 1990, "Stochastic
Fairness Queueing", dropping from the longest queue.
"""

from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from huterox_connector.core.ids import ServiceId

if TYPE_CHECKING:
    from huterox_connector.core.records import WaitingCall

STALE_MAX: Final = 64
"""Calls that have left the line from its middle, beyond as many as wait, before they are taken out of the turns."""

T = TypeVar("T")
_Turns = dict[ServiceId, dict[bytes, "deque[WaitingCall]"]]


class Line:
    """In order of arrival to look at, in turns to take from."""

    __slots__ = ("_calls", "_of_callers", "_of_services", "_turns", "_waiting_in_turns")

    def __init__(self) -> None:
        self._calls: dict[tuple[bytes, int], WaitingCall] = {}  # all of them, as they came
        self._turns: _Turns = {}  # whose turn is next comes first; some calls in it may have left
        self._waiting_in_turns = 0
        self._of_services: Counter[ServiceId] = Counter()
        self._of_callers: Counter[tuple[ServiceId, bytes]] = Counter()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> "Iterator[WaitingCall]":
        return iter(self._calls.values())

    @property
    def oldest(self) -> "WaitingCall":
        """The one that came first. There must be one."""
        return next(iter(self._calls.values()))

    def append(self, call: "WaitingCall") -> None:
        """The last of its caller's."""
        service, caller = call.service.id, call.caller
        self._calls[caller, call.request_id] = call
        self._turns.setdefault(service, {}).setdefault(caller, deque()).append(call)
        self._waiting_in_turns += 1
        self._of_services[service] += 1
        self._of_callers[service, caller] += 1

    def take_next(self) -> "WaitingCall":
        """Take out the call whose turn it is. There must be one."""
        while True:
            service, callers = next(iter(self._turns.items()))
            caller, calls = next(iter(callers.items()))
            call = calls.popleft()
            self._waiting_in_turns -= 1
            del callers[caller], self._turns[service]
            if calls:
                callers[caller] = calls
            if callers:
                self._turns[service] = callers
            if self._calls.get((caller, call.request_id)) is call:
                self._leave(call)
                return call

    def remove(self, call: "WaitingCall") -> None:
        """It ends, whoever's turn it is."""
        self._leave(call)
        if self._waiting_in_turns > 2 * len(self._calls) + STALE_MAX:
            self._renew()

    def who_must_go(self, call: "WaitingCall") -> "WaitingCall":
        """The line is full, and `call` has come: who of all has no place. May be `call` itself."""
        service, caller = call.service.id, call.caller
        ((longest, count),) = self._of_services.most_common(1)
        if count <= self._of_services[service] + 1:
            longest = service
        mine = self._of_callers[service, caller] + 1 if longest == service else 0
        counts = ((self._of_callers[longest, other], other) for other in self._turns.get(longest, ()))
        most, other = max(counts, default=(0, b""))
        if most <= mine:
            return call
        return next(c for c in reversed(self._turns[longest][other]) if self._calls.get((other, c.request_id)) is c)

    def _leave(self, call: "WaitingCall") -> None:
        service, caller = call.service.id, call.caller
        del self._calls[caller, call.request_id]
        _count_down(self._of_services, service)
        _count_down(self._of_callers, (service, caller))

    def _renew(self) -> None:
        calls = list(self._calls.values())
        self.__init__()  # type: ignore[misc]
        for call in calls:
            self.append(call)


def _count_down(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
