"""What kernels were asked for callers: each question ends once, by its answer, its deadline, or the kernel's end.

A kernel answers its asker directly: the route carries the caller's identity. This table only tells whether somebody
still waits for that answer.
"""

from collections.abc import Set
from dataclasses import dataclass

from huterox_connector.core.effects import Effect, Refuse
from huterox_connector.core.ids import RouteSource
from huterox_wire.errors import Busy, Conflict, HuteroxError, Unavailable
from huterox_wire.route import CALLER


@dataclass(slots=True, frozen=True)
class Question:
    """One question in a kernel's hands, under a route of its own. `late` is for an asker whose time is over."""

    kernel: bytes
    route: bytes
    deadline_s: float
    late: HuteroxError


class Questions:
    """The questions without an answer, at most `questions_max`."""

    def __init__(self, routes: RouteSource, questions_max: int, busy_retry_after_s: float) -> None:
        self._routes = routes
        self._open: dict[tuple[bytes, int], Question] = {}
        self._max = questions_max
        self._busy_retry_after_s = busy_retry_after_s

    def __len__(self) -> int:
        return len(self._open)

    def put(
        self, caller: bytes, request_id: int, kernel: bytes, container_id: int, deadline_s: float, late: HuteroxError
    ) -> bytes:
        """Remember who was asked; the route by which to ask.

        Raises:
            Busy: too many questions have no answer yet.
            Conflict: the caller has one of this number open.
        """
        if (caller, request_id) in self._open:
            raise Conflict(f"request id {request_id} is in use by a question that is not answered yet")
        if len(self._open) >= self._max:
            raise Busy("too many questions wait for kernels", retry_after_s=self._busy_retry_after_s)
        route = self._routes.next(container_id, caller)
        self._open[caller, request_id] = Question(kernel, route, deadline_s, late)
        return route

    def answered(self, kernel: bytes, route: bytes, request_id: int, now_s: float) -> bool:
        """Whether `kernel` answers what it was asked, in time; from then on it is not asked any more."""
        key = (route[CALLER], request_id)
        question = self._open.get(key)
        if question is None or question.route != route or question.kernel != kernel or question.deadline_s <= now_s:
            return False
        del self._open[key]
        return True

    def ids_of(self, caller: bytes) -> list[int]:
        return [request_id for other, request_id in self._open if other == caller]

    def callers(self) -> set[bytes]:
        """Who waits for an answer."""
        return {caller for caller, _ in self._open}

    def forget(self, callers: Set[bytes]) -> None:
        """Drop the questions of callers that have gone."""
        self._open = {key: question for key, question in self._open.items() if key[0] not in callers}

    def expire(self, now_s: float) -> list[Effect]:
        """End the questions whose time is over."""
        return [self._end(key, q.late) for key, q in list(self._open.items()) if q.deadline_s <= now_s]

    def lose(self, kernel: bytes) -> list[Effect]:
        """End the questions that `kernel` was asked: it has gone."""
        lost = Unavailable("the container's node was lost before it answered")
        return [self._end(key, lost) for key, q in list(self._open.items()) if q.kernel == kernel]

    def _end(self, key: tuple[bytes, int], error: HuteroxError) -> Refuse:
        del self._open[key]
        return Refuse(*key, error)
