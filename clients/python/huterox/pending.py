"""What a channel knows of the calls that go through it, and asks of the core that keeps them."""

from typing import Any, Protocol, TypeVar


class Pending(Protocol):
    """What a channel knows of a call under way.

    Attributes:
        ended: the call has ended.
        parts: pieces of a streamed reply that nobody has taken yet. None for a call that takes none.
        deadline_s: when it ends by itself, on the monotonic clock; infinite until it is under way.
        unattended: nobody may be waiting for it (a future, a stream), so somebody must read on its behalf.
        owner: whom the channel tells of the end.
        foreign: another thread than the main one has made it, or waits for it.
    """

    ended: bool
    parts: Any
    deadline_s: float
    unattended: bool
    owner: Any
    foreign: bool


C = TypeVar("C", bound=Pending)
P_contra = TypeVar("P_contra", contravariant=True)


class Owner(Protocol[P_contra]):
    """Who is told that a call has ended when no thread waits for it. Called without the lock; once per call, and again
    where the thread that told it was interrupted."""

    @property
    def is_watched(self) -> bool:
        """Somebody waits in a way that bears no interrupt of the thread that tells it."""

    def settle(self, call: P_contra, /) -> None: ...


class Core(Protocol[C]):
    """The calls of a channel, as their sans-IO core keeps them. All of it under the channel's lock.

    Attributes:
        next_deadline_s: no call ends by itself before this.
        unattended_count: of the calls in flight.
        in_flight_count: how many calls are under way.
        foreign_count: of them, those that the main thread might lose if it read. 0 where nothing can be lost.
        closed: no more calls are taken.
        news: calls that have ended or have one more part, until the channel has told whoever waits and clears it.
    """

    next_deadline_s: float
    foreign_count: int
    news: list[C]

    def share(self, call: C) -> None:
        """The call is `foreign` from now on."""

    @property
    def unattended_count(self) -> int: ...

    @property
    def in_flight_count(self) -> int: ...

    @property
    def closed(self) -> bool: ...

    def cancel(self, call: C) -> bool:
        """Give a call up. False: it had ended before."""

    def expire(self, now_s: float) -> list[C]:
        """End the calls whose time is over."""

    def close(self) -> list[C]:
        """Take no more calls and end those under way."""
