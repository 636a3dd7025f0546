"""Who waits for room in vain: when there may be some, whose time or patience ends before that, and what they are told.

Looking for room takes time where nodes and containers are many, and a model without room may be called a thousand times
a second. So what a look has found, that there is none and when there may be, is taken to hold for a moment, as long as
nothing has left: calls that come meanwhile cost no look.
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Final

from huterox_connector.core.books import Books
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect
from huterox_connector.core.faults import Faults
from huterox_connector.core.interrupts import comes_s, in_short, interrupt
from huterox_connector.core.journal import Journal
from huterox_connector.core.lending import Lending
from huterox_connector.core.placement import fits_beside_the_firm
from huterox_connector.core.records import Group, GroupKey, WaitingCall
from huterox_connector.core.registry import Registry
from huterox_connector.core.survey import Survey
from huterox_wire.errors import ResourceInterrupt

NODES_JUDGED_MAX: Final = 64
"""With more nodes, what may never leave is not added up for each refusal: a fault waits out its patience instead."""

GROUPS_MAX: Final = 256
"""Groups whose last look is remembered."""

SAID_BEFORE_S: Final = 0.1
"""A call that waits for room until its deadline is refused so long before it: its caller hears why, not just that."""

TOLD_S: Final = 1.0
"""How often the journal tells of refusals of one group, at most."""


@dataclass(slots=True)
class Outlook:
    """What a look for room has found: none now. `at_s`: when there may be some at the earliest."""

    at_s: float = inf
    holds_until_s: float = -inf
    version: int = -1  # of the books, then
    seen: Survey | None = None  # the look itself: what is explained is what was decided on
    error: ResourceInterrupt | None = None  # made when it is first needed
    told_s: float = -inf
    untold: int = 0  # refusals since the journal was told of one


class Refusals:
    """Ends calls that wait in vain."""

    def __init__(
        self,
        registry: Registry,
        books: Books,
        faults: Faults,
        lending: Lending,
        journal: Journal,
        config: CoreConfig,
    ) -> None:
        self._registry = registry
        self._books = books
        self._faults = faults
        self._lending = lending
        self._journal = journal
        self._config = config
        self._outlooks: OrderedDict[GroupKey, Outlook] = OrderedDict()

    def is_known(self, group: Group, now_s: float) -> bool:
        """Whether there was no room a moment ago, and nothing has left since."""
        outlook = self._outlooks.get(group.key)
        return outlook is not None and now_s < outlook.holds_until_s and outlook.version == self._books.version

    def looked_s(self, group: Group) -> float:
        """Until when the last look held; it orders those that are due for another one."""
        outlook = self._outlooks.get(group.key)
        return outlook.holds_until_s if outlook is not None else -inf

    def looked(self, seen: Survey, now_s: float) -> None:
        """A look has found no room: note when there may be some."""
        key = seen.wish.group.key
        outlook = self._outlooks.setdefault(key, Outlook())
        self._outlooks.move_to_end(key)
        if len(self._outlooks) > GROUPS_MAX:
            self._outlooks.popitem(last=False)
        outlook.seen, outlook.at_s = seen, self._room_at_s(seen, now_s)
        outlook.holds_until_s = now_s + self._config.look_again_s
        outlook.version = self._books.version
        outlook.error = None

    def end_vain(self, group: Group, now_s: float) -> list[Effect]:
        """End the calls whose time or patience ends before there can be room, and those that have lost patience."""
        outlook = self._outlooks[group.key]
        patience_s = self._config.room_patience_s

        def in_vain(waiting: WaitingCall) -> bool:
            ends_s = min(waiting.deadline_s - SAID_BEFORE_S, waiting.arrived_s + patience_s)
            return outlook.at_s > ends_s or now_s >= ends_s

        count = sum(map(in_vain, group.waiting))
        if not count:
            return []
        if outlook.error is None:
            assert outlook.seen is not None, "who is refused was looked for"
            nodes = self._registry.nodes.values()
            outlook.error = interrupt(outlook.seen, nodes, outlook.at_s, now_s, self._config)
        told = self._tell(group, outlook, outlook.error, count, now_s)
        return [*told, *self._faults.interrupt(group, outlook.error, in_vain)]

    def _tell(self, group: Group, outlook: Outlook, error: ResourceInterrupt, count: int, now_s: float) -> list[Effect]:
        outlook.untold += count
        if now_s - outlook.told_s < TOLD_S:
            return []
        calls, outlook.told_s, outlook.untold = outlook.untold, now_s, 0
        facts = in_short(error.details)
        return [self._journal.record("refused", group.model.name, error.message, now_s, calls=calls, **facts)]

    def _room_at_s(self, seen: Survey, now_s: float) -> float:
        """When there may be room at the earliest. Where some large enough nodes were not seen, nothing is ruled out."""
        group = seen.wish.group
        if group.model.lenders and self._lending.serves(group, now_s):
            return now_s  # the line moves on with what is lent
        if not seen.large_enough:
            return inf
        if seen.complete and len(seen.open) == len(seen.nodes):
            return comes_s(seen.wish, seen.open, now_s, self._config)
        if not seen.complete and seen.nodes_in_all > NODES_JUDGED_MAX:
            return now_s
        if not any(fits_beside_the_firm(group.model, node) for node in self._registry.nodes.values()):
            return inf
        return now_s  # a node that is closed now may open again, one that was not seen may have room
