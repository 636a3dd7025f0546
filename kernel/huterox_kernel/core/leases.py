"""Which lanes callers have, and who may have one: promises, limits, slots.

A lane is promised first, to whom the switchboard sends, and made when the promise is redeemed: in between lies the way
of a token through the switchboard to the caller. A promise holds nothing but its place among the tokens.

A lane that has ended stays here until the worker has let go of it, for so long does the worker count in its slot of the
ledger. Then the slot can be another lane's.

    promise ─▶ redeem ─▶ OPEN ─▶ DRAINING ─▶ ENDED ─▶ let go
                           └────────────────▶

When full: Busy, and the caller goes by the switchboard. When the container goes, so do its lanes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from huterox_kernel.core.records import MIB, text_of
from huterox_kernel.core.usage import Usage
from huterox_shm.layout import RING_ENTRIES_MAX, RING_ENTRIES_MIN
from huterox_wire.errors import Busy, InvalidInput, Unauthorized, Unavailable
from huterox_wire.leases import LeaseOrderMeta

CONTAINER_LANES_MAX: Final = 512


class LeaseLimits(NamedTuple):
    """What lanes may be."""

    half_mb: int  # where the caller does not say
    half_mb_max: int
    ring_entries: int  # where the caller does not say
    lanes_max: int  # of all containers together
    token_s: float


class Tokens(Protocol):
    """One-time tokens that are out (see `huterox_shm.handover`)."""

    def issue(self, now_s: float) -> bytes: ...
    def redeem(self, token: bytes, now_s: float) -> bool: ...


class Phase(StrEnum):
    OPEN = "open"
    DRAINING = "draining"  # no new calls; those in it still end
    ENDED = "ended"  # the worker has been told, or has told


@dataclass(slots=True, eq=False)
class Lane:
    """One lane of a caller's. `lane` is never used again in the life of a kernel."""

    lane: int
    container: int
    service: int
    title: str
    slot: int
    half_nbytes: int
    ring_entries: int
    phase: Phase = Phase.OPEN


@dataclass(slots=True)
class _Container:
    """The lanes of one container, by their ids."""

    admits: bool = False
    lanes: dict[int, Lane] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    free_slots: list[int] = field(default_factory=list)
    slots_used: int = 0  # the highest slot that was ever given out, and one

    def take_slot(self) -> int:
        if self.free_slots:
            return self.free_slots.pop()
        self.slots_used += 1
        return self.slots_used - 1


class LeaseTable:
    """Owns the state of all callers' lanes of a kernel."""

    def __init__(self, limits: LeaseLimits, tokens: Tokens) -> None:
        self._limits = limits
        self._tokens = tokens
        self._promised: dict[bytes, tuple[LeaseOrderMeta, float]] = {}  # and until when; in the order of expiry
        self._containers: dict[int, _Container] = {}
        self._last_lane = 0
        self._lane_count = 0

    # Containers.

    def open(self, container: int) -> None:
        """A container is to be; it admits no lanes yet."""
        self._containers[container] = _Container()

    def admit(self, container: int) -> None:
        """New lanes may be had."""
        self._containers[container].admits = True

    def refuse(self, container: int) -> None:
        """No new lanes, not even those that are promised."""
        if (known := self._containers.get(container)) is not None:
            known.admits = False

    def drain(self, container: int) -> list[Lane]:
        """No new lanes, and no new calls in those that are open, which are returned."""
        self.refuse(container)
        return _draining(self.lanes(container))

    def drain_service(self, container: int, service: int) -> list[Lane]:
        """The same for the lanes of one service, and those that it was promised; others come and go as before."""
        for token, (order, _) in list(self._promised.items()):
            if (order.container, order.service) == (container, service):
                del self._promised[token]
        return _draining([lane for lane in self.lanes(container) if lane.service == service])

    def close(self, container: int) -> list[Lane]:
        """The container has gone; returns the lanes that go with it."""
        known = self._containers.pop(container, None)
        if known is None:
            return []
        self._lane_count -= len(known.lanes)
        return list(known.lanes.values())

    def lanes(self, container: int) -> list[Lane]:
        """All lanes that a container has, those included that have ended and are not yet let go."""
        known = self._containers.get(container)
        return list(known.lanes.values()) if known is not None else []

    def is_drained(self, container: int) -> bool:
        """Has the container no lanes, and will it get none?"""
        known = self._containers.get(container)
        return known is None or not (known.admits or known.lanes)

    def usage(self, container: int) -> Usage | None:
        """What a container's lanes add up to; None where there is no such container."""
        known = self._containers.get(container)
        return known.usage if known is not None else None

    # Lanes.

    def promise(self, order: LeaseOrderMeta, now_s: float) -> bytes:
        """A token for the lane that is ordered.

        Raises:
            Unavailable, Busy: the container cannot have it now.
            InvalidInput: no lane can have these sizes.
            TooManyTokens: as many are out as may be.
        """
        self._check_room(order)
        entries = order.ring_entries
        if entries and (entries & (entries - 1) or not RING_ENTRIES_MIN <= entries <= RING_ENTRIES_MAX):
            raise InvalidInput(
                f"ring_entries is {entries}; it must be a power of two from {RING_ENTRIES_MIN} to {RING_ENTRIES_MAX}"
            )
        self._expire(now_s)
        token = self._tokens.issue(now_s)
        self._promised[token] = (order, now_s + self._limits.token_s)
        return token

    def redeem(self, token: bytes, now_s: float) -> Lane:
        """The lane that was promised, which is there from now on; a token is good once.

        Raises:
            Unauthorized: no such token, or its time is over.
            Unavailable, Busy: the container has changed since the promise.
        """
        self._expire(now_s)
        if not self._tokens.redeem(token, now_s) or token not in self._promised:
            raise Unauthorized("this token is not known, was used, or is out of date")
        order, _ = self._promised.pop(token)
        known = self._check_room(order)
        self._last_lane += 1
        self._lane_count += 1
        lane = Lane(
            self._last_lane,
            order.container,
            order.service,
            order.title,
            known.take_slot(),
            min(order.half_mb or self._limits.half_mb, self._limits.half_mb_max) * MIB,
            order.ring_entries or self._limits.ring_entries,
        )
        known.lanes[lane.lane] = lane
        known.usage.know(lane.service)
        return lane

    def end(self, lane: Lane) -> bool:
        """A lane is over for its caller. False: it was already."""
        was_over = lane.phase is Phase.ENDED
        lane.phase = Phase.ENDED
        return not was_over

    def find(self, container: int, lane: int) -> Lane | None:
        """A container's lane by its id."""
        known = self._containers.get(container)
        return known.lanes.get(lane) if known is not None else None

    def let_go(self, lane: Lane) -> None:
        """The worker uses a lane no longer: forget it, and give its slot to the next."""
        known = self._containers[lane.container]
        del known.lanes[lane.lane]
        known.free_slots.append(lane.slot)
        self._lane_count -= 1

    def _check_room(self, order: LeaseOrderMeta) -> _Container:
        known = self._containers.get(order.container)
        name = text_of(order.container)
        if known is None:
            raise Unavailable(f"container {name} is not here", reason="absent")
        if not known.admits:
            raise Unavailable(f"container {name} takes no new lanes", reason="draining")
        for have, limit, what in (
            (self._lane_count, self._limits.lanes_max, "this kernel"),
            (len(known.lanes), CONTAINER_LANES_MAX, f"container {name}"),
        ):
            if have >= limit:
                raise Busy(f"{what} has {have} lanes; at most {limit} may be", reason="full", limit=limit)
        if not known.usage.has_room(order.service):
            raise Busy(f"container {name} has had lanes of too many services", reason="full")
        return known

    def _expire(self, now_s: float) -> None:
        for token in [token for token, (_, until_s) in self._promised.items() if until_s <= now_s]:
            del self._promised[token]


def _draining(lanes: list[Lane]) -> list[Lane]:
    """Those of these lanes that were open; no longer."""
    draining = [lane for lane in lanes if lane.phase is Phase.OPEN]
    for lane in draining:
        lane.phase = Phase.DRAINING
    return draining
