"""What workers of one zygote would share although each must have its own: random numbers, keys, and their last acts.

Problem: a library that makes a random generator while it is imported is imported once, in the zygote; all workers would
draw the same numbers. Idea: the zygote watches what is seeded from the system's entropy while it imports, finds the
objects that came of it, and each worker seeds them anew. What a library seeded with a number of its own stays as it is:
it is to be the same everywhere. Looking for them goes through all objects, which a worker must not do, for it would
copy every page that it shares.

Functions that a library gave to `atexit` when it was imported are not run by workers: what they clean up was made by
the zygote, for all of them. Those of the standard library that look after the process itself are kept.
"""

import atexit
import gc
import os
import random
import secrets
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final

_CHUNK: Final = 4096  # objects looked at together
_TORCH_CHOSEN_MAX: Final = 1 << 32
"""torch draws seeds of 53 bits; one that is not larger has been chosen."""

_KEY_NBYTES: Final = 32

_AT_EXIT: Final = (("logging", "shutdown"), ("multiprocessing.util", "_exit_function"))

_draws: set[int] = set()  # entropy that NumPy was given
_drawn: "weakref.WeakSet[random.Random]" = weakref.WeakSet()  # seeded from entropy
_found: list[Callable[[], object]] = []  # each seeds one object anew
_undo: list[Callable[[], None]] = []


def watch() -> None:
    """Begin to see what is seeded from entropy. In the zygote, before it imports anything for the models."""
    randbits, seed, setstate = secrets.randbits, random.Random.seed, random.Random.setstate

    def randbits_and_note(k: int) -> int:  # where NumPy has its entropy from
        bits = randbits(k)
        if _undo:
            _draws.add(bits)
        return bits

    def seed_and_note(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, a, version)
        _note(self, a is None)

    def setstate_and_note(self: random.Random, state: Any) -> None:
        setstate(self, state)
        _note(self, False)

    def stop() -> None:
        secrets.randbits = randbits
        random.Random.seed, random.Random.setstate = seed, setstate  # type: ignore[method-assign]

    _undo.append(stop)
    secrets.randbits = randbits_and_note
    random.Random.seed, random.Random.setstate = seed_and_note, setstate_and_note  # type: ignore[method-assign]


def _note(generator: random.Random, is_drawn: bool) -> None:
    if is_drawn and not isinstance(generator, random.SystemRandom):
        _drawn.add(generator)
    else:
        _drawn.discard(generator)


def settle() -> None:
    """All is imported: find what workers must seed anew, and forget what is not theirs to do at their end."""
    while _undo:
        _undo.pop()()
    for renew_one in [*(generator.seed for generator in _drawn), *_of_numpy_and_torch()]:
        try:
            renew_one()  # what fails here would fail in every worker
        except Exception as exc:  # noqa: BLE001 - a library's own type
            print(f"{renew_one} cannot be seeded anew, all workers draw the same from it: {exc}", file=sys.stderr)  # noqa: T201
        else:
            _found.append(renew_one)
    _forget_exit_functions()


def renew() -> None:
    """Seed anew what this worker has inherited."""
    random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:  # asking numpy for it would import it
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()
    if (processes := sys.modules.get("multiprocessing.process")) is not None:
        processes.current_process().authkey = os.urandom(_KEY_NBYTES)  # who knows it may send it pickles
    for renew_one in _found:
        renew_one()


def _of_numpy_and_torch() -> list[Callable[[], object]]:
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    numpys: list[type] = []
    if numpy_random is not None:
        seeds = numpy_random.bit_generator
        numpys = [seeds.BitGenerator, seeds.SeedSequence, numpy_random.RandomState]
    wanted = {kind for base in numpys for kind in _kinds_of(base)}
    torch_seed = 0
    if torch is not None:
        wanted.add(torch.Generator)
        torch_seed = torch.Generator().initial_seed()  # of every one that nobody has seeded
    renewals: list[Callable[[], object]] = []
    for found in _objects_of(wanted) if wanted else ():
        if torch is not None and type(found) is torch.Generator:
            seed = found.initial_seed()
            if found.device.type == "cpu" and seed > _TORCH_CHOSEN_MAX and seed != torch_seed:
                renewals.append(found.seed)
        elif (own := getattr(found, "_bit_generator", None)) is not None:  # a RandomState
            if _is_drawn(own):
                renewals.append(_Renew(found))
        elif _is_drawn(found):
            renewals.append(found.__init__)  # as when it was made, from entropy
    return renewals


class _Renew:
    """Forgets the half of a pair of normal numbers that a RandomState has kept. Its bit generator is another object."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __call__(self) -> None:
        self._state.set_state({**self._state.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})


def _is_drawn(found: Any) -> bool:
    """Did its seed come from entropy? `found` is a bit generator of NumPy's, or a sequence of seeds."""
    sequence = getattr(found, "seed_seq", found)
    entropy = getattr(sequence, "entropy", None)
    parts = entropy if isinstance(entropy, list | tuple) else (entropy,)
    return any(part in _draws for part in parts)


def _kinds_of(base: type) -> list[type]:
    below: list[type] = type.__subclasses__(base)
    return [base, *(kind for one in below for kind in _kinds_of(one))]


def _objects_of(wanted: set[type]) -> list[Any]:
    """All objects of these types. Some of them the garbage collector does not know, but it knows who refers to them."""
    found: dict[int, Any] = {}
    known = gc.get_objects()
    for start in range(0, len(known), _CHUNK):
        referents = gc.get_referents(*known[start : start + _CHUNK])
        if not wanted.isdisjoint(map(type, referents)):
            found.update((id(item), item) for item in referents if type(item) in wanted)
    return list(found.values())


def _forget_exit_functions() -> None:
    registered = [getattr(sys.modules[module], name) for module, name in _AT_EXIT if module in sys.modules]
    finalizers: Any = weakref.finalize
    if finalizers._registered_with_atexit:
        registered.append(finalizers._exitfunc)
        for finalizer in list(finalizers._registry):
            finalizer.atexit = False
    atexit._clear()
    for function in registered:
        atexit.register(function)
