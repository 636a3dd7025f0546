"""Who may not leave, and why. Pure functions of the records.

Guards come before every policy: whatever a replacer ranks first, what is guarded stays. Each has a text for people and
a time at which it may lapse, so that a refusal can say who holds the room, why, and when to come back.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.hotness import impulse
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Group

LEAVING: Final = frozenset({State.DRAINING, State.CLOSING})
LEAVES_IN_S: Final = 0.5
"""What leaves, or loads, is taken to need at least so long; nobody knows."""


class Guard(StrEnum):
    """Why a container stays, the strongest first."""

    PINNED = "pinned"
    DEDICATED = "dedicated"
    LOADING = "loading"
    LEAVING = "leaving"
    FRESH = "fresh"
    HOT = "hot"
    BUSY = "busy"


@dataclass(slots=True, frozen=True)
class Wish:
    """Who asks for room: `rate` is how hot it is, in calls per second; `turn_due`: it has waited long enough to drain
    containers that have calls in flight.
    """

    group: Group
    rate: float
    since_s: float
    turn_due: bool = False


def wish_of(group: Group, now_s: float, config: CoreConfig) -> Wish:
    """What a group asks for now, by the call that waits longest.

    That call was just made: however long its model has been left alone, it counts in full.
    """
    one_call = impulse(config.hot_half_life_s)
    rate = max(group.hotness.rate(group.calls, now_s, config.hot_half_life_s), one_call)
    since_s = group.waiting.oldest.arrived_s if group.waiting else now_s
    return Wish(group, rate, since_s, now_s - since_s >= config.turn_after_s)


def protected_until_s(container: Container, config: CoreConfig) -> float:
    """The end of a container's minimum residency."""
    return container.ready_s + minimum_residency_s(container.load_s, config)


def minimum_residency_s(load_s: float, config: CoreConfig) -> float:
    """How long a container stays at least: a multiple of what its load cost, within bounds."""
    return min(
        max(config.residency_min_s, config.residency_load_factor * load_s),
        max(config.residency_max_s, config.residency_min_s),
    )


def heat_of(container: Container, now_s: float, config: CoreConfig) -> float:
    """Calls per second: the decayed rate of its group's calls, but no more than its idleness allows.

    Who was called very often and has then been left alone is hot no longer, however slowly the rate decays.
    """
    group = container.group
    rate = group.hotness.rate(group.calls, now_s, config.hot_half_life_s)
    idle_s = now_s - max((other.used_s for other in group.ready), default=container.used_s)
    return min(rate, 1.0 / idle_s) if idle_s > 0.0 else rate


def _is_hotter(container: Container, rate: float, now_s: float, config: CoreConfig) -> bool:
    """Whether it is called more often than `rate`; idle for long enough, it is not, whatever it was before."""
    is_idle = len(container.group.ready) == 1 and (now_s - container.used_s) * rate >= 1.0
    return not is_idle and heat_of(container, now_s, config) > rate


def is_surplus(container: Container) -> bool:
    """Whether others of its group go on serving when it leaves. The one that has been ready for longest never is."""
    ready = container.group.ready
    return len(ready) > 1 and container is not ready[0]


def gives_way(group: Group, wish: Wish) -> bool:
    """Whether the group's load may be broken off: nobody waits for it any more, and somebody does for its room.

    Two whose callers are all too impatient would break each other's loads off for ever: each gives way once then.
    """
    return not group.waiting and not (group.gave_way and wish.group.gave_way)


def guard_of(container: Container, wish: Wish, now_s: float, config: CoreConfig) -> Guard | None:
    """What keeps a container from leaving for `wish`; None: it may leave."""
    group = container.group
    if group.pins:
        return Guard.PINNED
    if group.key[1]:
        return Guard.DEDICATED
    if container.state is not State.READY:
        if container.state in LEAVING:
            return Guard.LEAVING
        return None if gives_way(group, wish) else Guard.LOADING
    # Guards are asked for every container of a node, again and again: what is old and idle is passed by quickly.
    if now_s - container.ready_s < config.residency_max_s and protected_until_s(container, config) > now_s:
        return Guard.FRESH
    # A surplus replica's calls go to the others: how hot its model is does not matter.
    factor = 0.0 if is_surplus(container) else config.hotter_factor
    if factor and _is_hotter(container, factor * wish.rate, now_s, config):
        return Guard.HOT
    return Guard.BUSY if container.calls_now and not wish.turn_due else None


def explain(guard: Guard | None, container: Container, wish: Wish, now_s: float, config: CoreConfig) -> str:
    """A guard in words; empty where there is none."""
    match guard:
        case Guard.PINNED | Guard.DEDICATED:
            return str(guard)
        case Guard.LOADING | Guard.LEAVING:
            return str(container.state)
        case Guard.FRESH:
            left_s = protected_until_s(container, config) - now_s
            return f"loaded {now_s - container.ready_s:.1f} s ago, protected for another {left_s:.1f} s"
        case Guard.HOT:
            heat = heat_of(container, now_s, config)
            return f"hotter: {heat * 60:.1f} calls a minute against {wish.rate * 60:.1f}"
        case Guard.BUSY:
            return f"{container.calls_now} calls in flight"
    return ""


def lapses_s(guard: Guard | None, container: Container, wish: Wish, now_s: float, config: CoreConfig) -> float:
    """The earliest time at which the guard may be gone; inf: not by waiting."""
    match guard:
        case None:
            return now_s
        case Guard.LEAVING:
            return now_s + LEAVES_IN_S
        case Guard.LOADING:
            load_s = container.model.footprints.load_s(container.node.name)
            return now_s + max(LEAVES_IN_S, load_s + minimum_residency_s(load_s, config))
        case Guard.FRESH:
            return protected_until_s(container, config)
        case Guard.HOT:  # idle for so long, it is hotter no more
            return container.used_s + 1.0 / (config.hotter_factor * wish.rate)
        case Guard.BUSY:
            return max(now_s, wish.since_s + config.turn_after_s)
    return inf
