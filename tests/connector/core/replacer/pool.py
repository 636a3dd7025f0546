"""What the tests of the policies share: a pool of memory that a replacer rules, and traces to send through it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from huterox_connector.core.replacer import Replacer

Trace = list[int]
"""Pages, in the order in which they are asked for."""


@dataclass
class Pool:
    """The cache loop: a miss evicts until it fits. A page gets a new id each time it is loaded."""

    replacer: Replacer
    capacity: int
    size_of: Callable[[int], int] = lambda _: 1
    unit_nbytes: int = 1
    reload_cost_s: float = 1.0
    cids: dict[int, int] = field(default_factory=dict)  # by page
    pages: dict[int, int] = field(default_factory=dict)  # by id
    used: int = 0
    loads: int = 0

    def request(self, page: int) -> bool:
        """Whether it was a hit."""
        if page in self.cids:
            self.replacer.record_access(self.cids[page])
            return True
        while self.used + self.size_of(page) > self.capacity:
            self._evict()
        self.loads += 1
        self.cids[page], self.pages[self.loads] = self.loads, page
        self.used += self.size_of(page)
        nbytes = self.size_of(page) * self.unit_nbytes
        self.replacer.insert(self.loads, page=page, nbytes=nbytes, reload_cost_s=self.reload_cost_s)
        return False

    def requests(self, trace: Iterable[int]) -> list[bool]:
        return [self.request(page) for page in trace]

    def _evict(self) -> None:
        victim = self.replacer.victim(self.pages)
        assert victim is not None, "something is resident"
        self.replacer.remove(victim)
        page = self.pages.pop(victim)
        del self.cids[page]
        self.used -= self.size_of(page)


def filled(make: Callable[[], Replacer], *cids: int) -> Replacer:
    """One that knows `cids`, each by its first access alone, all alike."""
    replacer = make()
    for cid in cids:
        insert(replacer, cid)
    return replacer


def insert(replacer: Replacer, cid: int, *, page: object = None, nbytes: int = 1, reload_cost_s: float = 1.0) -> None:
    """A page is as good as its number, unless told otherwise."""
    replacer.insert(cid, page=cid if page is None else page, nbytes=nbytes, reload_cost_s=reload_cost_s)


def evict(replacer: Replacer, evictable: Iterable[int]) -> int | None:
    """Who is named, and leaves."""
    victim = replacer.victim(frozenset(evictable))
    if victim is not None:
        replacer.remove(victim)
    return victim


def order_of(replacer: Replacer, evictable: Iterable[int]) -> list[int]:
    """In which order they would leave. Tried out on a copy."""
    trial, remaining, order = replacer.copy(), set(evictable), []
    while (victim := evict(trial, remaining)) is not None:
        remaining.remove(victim)
        order.append(victim)
    return order


def zipf(random: Random, length: int, pages: int = 120, skew: float = 0.9) -> Trace:
    return random.choices(range(pages), [1 / rank**skew for rank in range(1, pages + 1)], k=length)


def uniform(random: Random, length: int, pages: int = 90) -> Trace:
    return [random.randrange(pages) for _ in range(length)]


def loop(random: Random, length: int) -> Trace:
    pages = random.randrange(5, 70)
    return [at % pages for at in range(length)]


def scans(random: Random, length: int) -> Trace:
    """A few popular pages, and passes over many others that touch each once."""
    return [random.randrange(15) if random.random() < 0.5 else 100 + at % 300 for at in range(length)]


def drift(random: Random, length: int) -> Trace:
    """What is popular changes: every 200 requests other pages are."""
    return [page + 10 * (at // 200) for at, page in enumerate(zipf(random, length))]


TRACES: dict[str, Callable[[Random, int], Trace]] = {
    "zipf": zipf,
    "uniform": uniform,
    "loop": loop,
    "scans": scans,
    "drift": drift,
}
