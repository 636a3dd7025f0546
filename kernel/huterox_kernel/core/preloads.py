"""What zygotes import: the configured modules, and what was learned from what models import, by interpreter.

A worker tells which modules its load imported that its zygote did not have. They are *fresh* until a zygote has tried
them: then those that took long are *learned*, the others *cheap*, and what cannot be preloaded is *skipped*, each with
its reason. All that is kept over restarts; what is skipped is tried again when the interpreter's packages have changed.

A library may import well and still not work after a fork. So a model whose loads went well, and fail once its zygote
has learned something, is *plain* from then on: its zygote has the configured modules alone.

A module that a zygote did not survive, or that leaves it unfit for forks, is left out by all that come: a learned one
is skipped, a configured one left out until the kernel starts anew.

When full: of the learned ones the oldest make way; interpreters that are too many learn nothing.
"""

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from msgspec import Struct, field

LEARNED_MAX: Final = 64
FRESH_MAX: Final = 256
FRESH_NBYTES_MAX: Final = 16 * 1024
CHEAP_MAX: Final = 512
SKIPPED_MAX: Final = 256
PLAIN_MAX: Final = 256
LOADED_MAX: Final = 1024
INTERPRETERS_MAX: Final = 16
NAME_NBYTES_MAX: Final = 200
REASON_NBYTES_MAX: Final = 200

DEAR_S: Final = 0.002
"""An import that took less is not worth a place."""


class Level(IntEnum):
    """How much a zygote imports."""

    BARE = 0  # nothing
    CONFIGURED = 1
    LEARNED = 2  # the configured modules, and what was learned


class Plan(NamedTuple):
    """What a zygote that starts now is to import, in order."""

    modules: list[str]  # configured
    learned: list[str]


class Learned(Struct, omit_defaults=True):
    """What is kept of one interpreter."""

    modules: list[str] = field(default_factory=list)  # in the order in which they are imported
    cheap: list[str] = field(default_factory=list)  # not worth a zygote
    skipped: dict[str, str] = field(default_factory=dict)  # and why
    plain: list[str] = field(default_factory=list)  # models
    fingerprint: str = ""  # of the packages that this holds for


class Preloads:
    """Owns what is known. With `learns` False nothing is learned, and nothing preloaded that was."""

    def __init__(self, configured: list[str], learns: bool, known: dict[str, Learned]) -> None:
        self._configured = configured
        self._left_out: dict[str, dict[str, str]] = {}  # by interpreter: configured modules, and why
        self._learns = learns
        self._known = known if learns else {}
        self._fresh: dict[str, dict[str, int]] = {}  # by interpreter: name -> the memory that came with it
        self._loaded: OrderedDict[tuple[str, str], None] = OrderedDict()  # interpreters and models: loads went well

    def known(self) -> dict[str, Learned]:
        """What is to be kept, by interpreter."""
        return self._known

    def plan(self, interpreter: str, level: Level) -> Plan:
        """What a zygote of this level is to import."""
        left_out = self._left_out.get(interpreter, {})
        modules = [name for name in self._configured if name not in left_out] if level >= Level.CONFIGURED else []
        return Plan(modules, self.wanted(interpreter) if level >= Level.LEARNED else [])

    def left_out(self, interpreter: str) -> dict[str, str]:
        """Configured modules that no zygote imports any more, and why."""
        return self._left_out.get(interpreter, {})

    def leave_out(self, interpreter: str, module: str, reason: str) -> None:
        """A zygote is of no use that has tried to import this."""
        if module in self._configured:
            self._left_out.setdefault(interpreter, {})[module] = reason
        self.avoid(interpreter, [module], reason)

    def wanted(self, interpreter: str) -> list[str]:
        """The learned modules, those that no zygote has tried among them."""
        known = self._known.get(interpreter)
        return [*(known.modules if known else ()), *self._fresh.get(interpreter, ())]

    def has_fresh(self, interpreter: str) -> bool:
        """Is there anything that no zygote has tried?"""
        return bool(self._fresh.get(interpreter))

    def fresh_nbytes(self, interpreter: str) -> int:
        """How much more memory than the one before a zygote will take that tries what is fresh."""
        return sum(self._fresh.get(interpreter, {}).values())

    def learn(self, interpreter: str, modules: Iterable[str], nbytes: int = 0) -> None:
        """A load has imported these, in this order, and has grown by so much meanwhile."""
        if not self._learns or (known := self._of(interpreter)) is None or len(known.skipped) >= SKIPPED_MAX:
            return
        fresh = self._fresh.setdefault(interpreter, {})
        seen = {*known.modules, *known.cheap, *fresh}
        room = FRESH_NBYTES_MAX - sum(map(len, fresh))
        for name in modules:
            if name in seen or not is_name(name) or is_under(name, known.skipped):
                continue
            room -= len(name)
            if room < 0 or len(fresh) >= FRESH_MAX:
                return
            fresh[name] = nbytes
            nbytes = 0  # the first stands for all
            seen.add(name)

    def drop_fresh(self, interpreter: str) -> None:
        """No zygote came to be that could have tried them: they are learned again by the next load that needs them."""
        self._fresh.pop(interpreter, None)

    def avoid(self, interpreter: str, modules: Iterable[str], reason: str) -> None:
        """These must not be preloaded, nor what is in them."""
        if not self._learns or (known := self._of(interpreter)) is None:
            return
        named = {name for name in modules if is_name(name)}
        avoided = {name for name in named if not is_under(name.rpartition(".")[0], named)}
        known.modules = [name for name in known.modules if not is_under(name, avoided)]
        fresh = self._fresh.get(interpreter, {})
        self._fresh[interpreter] = {name: fresh[name] for name in fresh if not is_under(name, avoided)}
        for name in sorted(avoided):
            if len(known.skipped) < SKIPPED_MAX and not is_under(name, known.skipped):
                known.skipped[name] = reason[:REASON_NBYTES_MAX]

    def settle(
        self,
        interpreter: str,
        tried: Sequence[str],
        took_s: dict[str, float],
        skipped: dict[str, str],
        fingerprint: str,
    ) -> None:
        """A zygote is ready that has tried these: so long did they take, and those were left out.

        Those that it had already when their turn came, with another or as configured, have no time.
        """
        if not self._learns or (known := self._of(interpreter)) is None:
            return
        if known.fingerprint and known.fingerprint != fingerprint:
            known.skipped.clear()
            known.cheap.clear()
            known.plain.clear()
        known.fingerprint = fingerprint
        fresh = self._fresh.get(interpreter, {})
        self._fresh[interpreter] = {name: fresh[name] for name in fresh if name not in set(tried)}
        dear = [name for name in tried if took_s.get(name, 0.0) >= DEAR_S]
        cheap = [name for name in tried if name in took_s and name not in dear]
        known.modules = [*dear, *(name for name in known.modules if name not in set(tried))][-LEARNED_MAX:]
        known.cheap = list(dict.fromkeys([*known.cheap, *cheap]))[-CHEAP_MAX:]
        for name, reason in skipped.items():
            self.avoid(interpreter, [name], reason)

    # Models.

    def level_of(self, interpreter: str, model: str) -> Level:
        """Which zygote this model is to be forked from: a plain one from one that has learned nothing."""
        known = self._known.get(interpreter)
        return Level.CONFIGURED if known is not None and model in known.plain else Level.LEARNED

    def loaded(self, interpreter: str, model: str) -> None:
        """A load of this model went well."""
        self._loaded[interpreter, model] = None
        self._loaded.move_to_end((interpreter, model))
        if len(self._loaded) > LOADED_MAX:
            self._loaded.popitem(last=False)

    def failed(self, interpreter: str, model: str) -> bool:
        """A load of it failed, forked from a zygote that has learned something. True: it is plain from now on."""
        known = self._known.get(interpreter)
        if known is None or model in known.plain or (interpreter, model) not in self._loaded:
            return False
        known.plain = [*known.plain, model][-PLAIN_MAX:]
        return True

    def _of(self, interpreter: str) -> Learned | None:
        known = self._known.get(interpreter)
        if known is None and len(self._known) < INTERPRETERS_MAX:
            known = self._known[interpreter] = Learned()
        return known


def is_under(name: str, names: Container[str]) -> bool:
    """Is it one of these, or in one of them?"""
    while name:
        if name in names:
            return True
        name = name.rpartition(".")[0]
    return False


def is_name(name: str) -> bool:
    return len(name.encode()) <= NAME_NBYTES_MAX and all(part.isidentifier() for part in name.split("."))
