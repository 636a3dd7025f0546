"""Do reference counts tell whether a model has kept memory of a lane?

Problem: the block of a request may be given back as soon as the model has no view of it any more, and so may memory
that `allocate` gave out. The worker asks the interpreter how many references there are, and knows how many are its own.
An interpreter that counts otherwise (one that lends references instead of counting them, or counts late) would have it
give blocks back under the model's hands.

Idea: try it before the first call, with the very code that runs calls, in a lane of its own. Where a block that was
kept is given back, or one that was not is held, or something else goes wrong: copy (see `Calls`), and trust nothing.

It is tried once in a process, and a fork inherits the answer.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import numpy as np

from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.inputs import Expected
from huterox_shm.lane import DEFINES, INDIRECT, PART, REQUEST_RELEASED, CallerEnd, ContainerEnd, LaneConfig, create_lane
from huterox_wire.meta import CallMeta, TensorSpec, encode_meta

_ROUNDS: Final = 4
"""Some dozens of calls by each way: enough for the interpreter to have changed the code into its quick form."""

_SMALL: Final = LaneConfig(128, 1 << 18, 1 << 18)
_REFERENCE_NBYTES: Final = 16


class _Model:
    """Keeps inputs and memory for outputs, or does not."""

    allocates = True
    name = "any"
    torch_inputs = frozenset[str]()

    def __init__(self) -> None:
        self.kept: Any = None
        self.keeps = self.fails = False

    def method(self, name: str) -> Any:
        """Of two methods, the one that only takes inputs is called `single`."""
        return _Single(self) if name == "single" else self

    def check(self, names: Iterable[str]) -> None:
        """Everything is taken."""

    def function(self, allocate: Any = None, **values: Any) -> Any:
        memory = allocate(8, "uint8") if allocate is not None else None
        if self.keeps:
            self.kept = [memory, *(value[1:] for value in values.values())]
        if self.fails:
            raise ValueError("as it was told")
        return np.zeros(1)


class _Single:
    """The same without memory for outputs."""

    allocates = False
    name = "single"
    torch_inputs = frozenset[str]()

    def __init__(self, model: _Model) -> None:
        self.check = model.check
        self.function = model.function


class _Trial:
    """Both ends of a lane."""

    def __init__(self) -> None:
        descriptors = create_lane(_SMALL, 1)
        self.caller = CallerEnd.attach(descriptors.duplicate())
        self.container = ContainerEnd.attach(descriptors)
        self.model = _Model()
        self.calls = Calls(self.container, self.model, Expected({}))
        for number, (method, inputs) in enumerate((("single", 1), ("single", 2), ("any", 1), ("any", 2)), 1):
            meta = encode_meta(CallMeta(method, {}, [TensorSpec(f"x{i}", "uint8", [8]) for i in range(inputs)]))
            self.publish(number, meta, DEFINES)
            self.answer()

    def close(self) -> None:
        self.caller.close()
        self.container.close()

    def publish(self, number: int, data: bytes, flags: int = 0) -> None:
        offset = self.caller.claim(len(data))
        self.caller.write_view(offset, len(data))[:] = data
        self.caller.publish_call(None, offset, len(data), number, flags)
        self.caller.flush()

    def answer(self) -> bool:
        """Have the call run. Was its request given back with the answer?"""
        while self.calls.look():
            self.calls.step(16)
        was_released = False
        for _, _, kind, flags, _, offset, nbytes in self.caller.take():
            if kind != PART:
                was_released = bool(flags & REQUEST_RELEASED)
            if nbytes:
                self.caller.release(offset)
        self.caller.flush_releases()
        return was_released

    def is_right(self, number: int, *, keeps: bool, fails: bool) -> bool:
        """One call of each kind that there is."""
        model = self.model
        model.keeps, model.fails = keeps, fails
        pairs = [(self.caller.layout.request_half + 64 * i, 8) for i in range(2)]
        table = b"".join(value.to_bytes(8, "little") for pair in pairs for value in pair)
        inputs = 1 if number % 2 else 2
        for data, flags in ((bytes(64 * (inputs - 1) + 8), 0), (table[: _REFERENCE_NBYTES * inputs], INDIRECT)):
            self.publish(number, data, flags)
            if self.answer() is keeps or bool(self.calls.kept) is not keeps:
                return False
            self.calls.look()  # at what the caller has released
            if self.container.slab_stats().out_count != (keeps and number > 2):
                return False
            model.kept = None
            self.calls.flush()
            if self.calls.kept or self.container.slab_stats().out_count:
                return False
        return True


@cache
def counts_are_exact() -> bool:
    """Whether this interpreter's reference counts can be relied on, for what is done with them here."""
    try:
        trial = _Trial()
    except Exception:  # noqa: BLE001 - no memory, no descriptors, whatever: not tried is not relied on
        return False
    try:
        return all(
            trial.is_right(number, keeps=keeps, fails=fails)
            for _ in range(_ROUNDS)
            for number in (1, 2, 3, 4)
            for keeps in (False, True)
            for fails in (False, True)
        )
    except Exception:  # noqa: BLE001 - as above
        return False
    finally:
        trial.close()
