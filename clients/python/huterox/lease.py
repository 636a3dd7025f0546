"""When a service without a lane asks for one, and with which words.

Problem: a lane exists only while the service's container does, and asking costs a round trip and a hand-over. Idea: the
routed way is always there, so nobody depends on a lane; and a routed answer is the sign that a container is there. So
a service asks when it is opened, and after that only when a routed call has just gone well. A refusal is followed by a
pause that doubles. A lane that ends clears the pause: the next routed success finds the container's successor.

Who is told that the container is on another host never asks again. Pure: the time is an argument.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from huterox.core import Limits
from huterox_wire.errors import DeadlineExceeded, Fault, HuteroxError, InvalidInput
from huterox_wire.leases import HALF_MB_MAX, LeasedMeta, LeaseMeta, decode_leased
from huterox_wire.message import Message
from huterox_wire.meta import encode_meta

OPENING_WAIT_S: Final = 1.0
"""How long opening a service waits for its lane, at most."""

CALL_WAIT_S: Final = 0.25
"""How long a blocking call that went well waits for the lane of those after it, at most."""

LEASE_S: Final = 1.0
"""The deadline of a LEASE, and of the hand-over that follows it."""

PAUSE_S_MIN: Final = 1.0
PAUSE_S_MAX: Final = 30.0
SHORT_LIFE_S: Final = 1.0
"""A lane that ends sooner is no success: where two in a row do, the pause goes on doubling."""

SPIN_US_MAX: Final = 1000
"""A thread that waits for an answer keeps others from running for so long, at most."""

_LOCAL: Final = ("ipc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]:")


class LaneGone(Exception):
    """A call did not happen in the lane, and no container has touched it: send it by the switchboard. Never leaves
    the SDK.

    Attributes:
        deadline_s: of the call, on the monotonic clock; infinite if the lane has not given it one.
    """

    def __init__(self, message: str = "the lane takes no calls", deadline_s: float = inf) -> None:
        super().__init__(message)
        self.deadline_s = deadline_s

    def left_s(self, timeout_s: float, now_s: float) -> float:
        """The time that is left for the call, which was given `timeout_s` in all.

        Raises:
            DeadlineExceeded: none is.
        """
        return timeout_s if self.deadline_s == inf else min(timeout_s, left_s(self.deadline_s, now_s))


def left_s(deadline_s: float, now_s: float) -> float:
    """The time until a deadline.

    Raises:
        DeadlineExceeded: none is left.
    """
    if now_s >= deadline_s:
        raise DeadlineExceeded("the call's time was over before a container began it")
    return deadline_s - now_s


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What a client's user has to say about lanes.

    Attributes:
        seek: whether to ask for lanes at all.
        half_mb: memory for requests and for answers of one lane, in MiB each; 0: the kernel's default.
    """

    seek: bool = True
    half_mb: int = 0


def lane_options(lanes: bool, lane_mb: int | None, switch: str) -> LaneOptions:
    """Check what `connect` was given.

    Args:
        switch: what HUTEROX_LANES says; "0" turns lanes off.
    Raises:
        InvalidInput: a size that cannot be.
    """
    if lane_mb is not None and (type(lane_mb) is not int or not 1 <= lane_mb <= HALF_MB_MAX):
        raise InvalidInput(f"lane_mb is a whole number from 1 to {HALF_MB_MAX}, got {lane_mb!r}", limit=HALF_MB_MAX)
    return LaneOptions(bool(lanes) and switch.strip() != "0", lane_mb or 0)


def lane_limits(when_full: str, lane_spin_us: int = 0) -> Limits:
    """Check what else `connect` was given about lanes. Raises InvalidInput."""
    if when_full not in ("wait", "busy"):
        raise InvalidInput(f"when_full is 'wait' or 'busy', got {when_full!r}")
    if type(lane_spin_us) is not int or not 0 <= lane_spin_us <= SPIN_US_MAX:
        raise InvalidInput(f"lane_spin_us is a whole number from 0 to {SPIN_US_MAX}, got {lane_spin_us!r}")
    return Limits(lane_waits=when_full == "wait", lane_spin_us=lane_spin_us)


def is_local(endpoint: str) -> bool:
    """Whether the switchboard is certainly on this host, so that waiting for a first lane may be worth it."""
    return endpoint.startswith(_LOCAL)


def encode_lease(host_id: str, pid: int, options: LaneOptions) -> bytes:
    """Meta of LEASE."""
    return encode_meta(LeaseMeta(host_id, pid, options.half_mb))


def decode_lease_answer(message: Message) -> LeasedMeta:
    """Where to fetch the lane.

    Raises:
        Fault: the answer is malformed.
    """
    try:
        return decode_leased(message.meta)
    except HuteroxError as exc:
        raise Fault(f"the answer to LEASE is malformed: {exc}") from exc


class Seeking:
    """One service's search for a lane.

    Attributes:
        due_s: a routed success after this moment is followed by an attempt; infinite while there is a lane, while an
            attempt is under way, and where none will be made any more.
    """

    __slots__ = ("due_s", "_given_up", "_opening", "_pause_s", "_short_lives", "_since_s")

    def __init__(self) -> None:
        self.due_s = 0.0
        self._pause_s = PAUSE_S_MIN
        self._since_s = inf  # when the lane came
        self._short_lives = 0  # of the last lanes, in a row
        self._opening = False
        self._given_up = False

    def begin(self, *, opening: bool) -> None:
        """An attempt is under way; `granted` or `refused` ends it."""
        self._opening = opening
        self.due_s = inf

    def granted(self, now_s: float) -> None:
        """There is a lane."""
        self._since_s = now_s

    def refused(self, error: Exception, now_s: float) -> bool:
        """There is none. Returns whether no service of this client needs to ask again, ever."""
        reason = error.details.get("reason") if isinstance(error, HuteroxError) else None
        if reason == "other_host":
            self.give_up()
        elif self._opening and reason == "absent":
            self._retry_at(now_s)  # what nobody has called yet is rarely resident: that says nothing about later
        elif reason == "quota":  # that lasts as long as the service does; another one may follow under its name
            self._pause_s = PAUSE_S_MAX
            self._pause(now_s)
        else:
            self._pause(now_s)
        return self._given_up

    def lost(self, now_s: float) -> None:
        """The lane has ended."""
        self._short_lives = self._short_lives + 1 if now_s - self._since_s < SHORT_LIFE_S else 0
        if self._short_lives > 1:
            self._pause(now_s)
        else:
            self._pause_s = PAUSE_S_MIN
            self._retry_at(now_s)

    def give_up(self) -> None:
        """No attempt from now on."""
        self._given_up = True
        self.due_s = inf

    def _pause(self, now_s: float) -> None:
        self._retry_at(now_s + self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    def _retry_at(self, due_s: float) -> None:
        self.due_s = inf if self._given_up else due_s
