"""Numbered forms: what two ends that talk for long need to tell each other only once.

Calls repeat: the same method, names, dtypes and shapes, again and again. A form is all of a message but its tensors'
bytes, so it is a meta map. The sender tells it once, with a number; from then on it sends the number and the tensors
alone, each at the next multiple of 64 bytes from the start of the block. Numbers are few and used again: a sender that
needs a fresh one takes it from the oldest form.

What it does not do: carry anything. Senders know a form by a key of their own making; receivers by its number.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np

from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.message import align
from huterox_wire.meta import TensorSpec

FORMS_MAX: Final = 256
"""Numbers are 1 to this. 0 stands for none."""

VIEWS_MAX: Final = 1024
"""Places that a form remembers its arrays at; one more, and they are collected anew."""

Tensor = tuple[str, Any, tuple[int, ...], int, int]
"""Name, NumPy dtype (None: a byte string), shape, where it begins in the block, its size in bytes."""


class Form:
    """The tensors of a message, in order. `meta` is the encoded meta map; `nbytes` is what the block needs.

    The rest is a sender's: `views` are the arrays that it writes through, by the block's offset; `view` is the same for
    a form of one tensor; `stack` is where its allocator keeps free blocks of this size.
    """

    __slots__ = ("meta", "nbytes", "number", "order", "stack", "tensors", "view", "views")

    def __init__(self, number: int, meta: bytes, specs: Sequence[TensorSpec]) -> None:
        """`specs` are those of the meta map, and checked."""
        self.number = number
        self.meta = meta
        tensors: list[Tensor] = []
        end = 0
        for spec in specs:
            start = align(end)
            end = start + spec.nbytes
            tensors.append((spec.name, DTYPE_OF_NAME.get(spec.dtype), tuple(spec.shape), start, end - start))
        self.tensors = tuple(tensors)
        self.nbytes = end
        self.order = (end - 1).bit_length() if end else 0
        self.stack: list[int] = []
        self.views: dict[int, list[Any]] = {}
        self.view: dict[int, Any] = {}

    def views_at(self, memory: Any, offset: int) -> list[Any]:
        """The arrays at `offset` of `memory`, to be written through: NumPy arrays, or memoryviews for byte strings."""
        if len(self.views) >= VIEWS_MAX:
            self.views.clear()
            self.view.clear()
        self.views[offset] = views = [
            memory[offset + start : offset + start + nbytes]
            if dtype is None
            else np.ndarray(shape, dtype, memory, offset + start)
            for _, dtype, shape, start, nbytes in self.tensors
        ]
        if len(views) == 1 and self.tensors[0][1] is not None:
            self.view[offset] = views[0]
        return views


class SentForms:
    """A sender's forms, by its keys."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Form] = {}
        self._keys: list[Hashable] = [None] * (FORMS_MAX + 1)
        self._last = 0
        self.get = self._by_key.get
        """Hot path. The form of a key, None if it has none."""

    def add(self, key: Hashable, meta: bytes, specs: Sequence[TensorSpec]) -> Form:
        """Give a key a form with a number that the other side does not know yet, or knows as something else."""
        number = self._last = self._last % FORMS_MAX + 1
        self._by_key.pop(self._keys[number], None)
        self._keys[number] = key
        form = self._by_key[key] = Form(number, meta, specs)
        return form

    def clear(self) -> None:
        """Forget all forms, and let go of the memory that they write to, also where a message still has its form."""
        for form in self._by_key.values():
            form.views.clear()
            form.view.clear()
            form.stack = []
        self._by_key.clear()

    def forget(self, key: Hashable) -> None:
        """The message that should have told the form was not sent."""
        self._by_key.pop(key, None)
