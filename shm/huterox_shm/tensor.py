"""Arrays over a block, and how to learn that the last of them is gone.

Problem: a result is an array over shared memory. Its block may be released when nobody can see it any more, and people
make views of views, hand them to torch, keep slices. Idea: between the block's bytes and every array over them stands
one object, a BlockArray. NumPy lets a view's `base` collapse towards the memory's owner only while the types are equal,
so no further than to a subclass instance; memoryviews, DLPack and `torch.from_numpy` hold the array that they were made
from. So every way to the bytes holds the BlockArray, and its end is the end of the last view.

(`np.ndarray(..., buffer=view)` holds not `view` but what `view` was made from: give out `memoryview(block)`, never the
lane's own view, where somebody else makes the arrays.)

    memory  <-  memoryview of the block  <-  BlockArray (uint8)  <-  array  <-  array[1:], torch tensor, ...

What it does not do: look at what the bytes mean. A span outside of the block is an error.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


class BlockArray(np.ndarray[Any, np.dtype[np.uint8]]):
    """All bytes of one block, the base of every array over it. Make it with `block_array`."""


def block_array(block: memoryview) -> BlockArray:
    """Hot path. The base object of a block, read-only where the memoryview is."""
    return BlockArray((len(block),), np.uint8, block)


def array_over(block: BlockArray, dtype: DTypeLike, shape: Sequence[int], offset: int = 0) -> np.ndarray[Any, Any]:
    """Hot path. An array over bytes of the block, from `offset` on, C order; read-only where the block is.

    Raises:
        ValueError, TypeError: it does not fit into the block, or has no such form.
    """
    if offset < 0:  # NumPy checks the end of the span only
        raise ValueError(f"an array at offset {offset} of a block")
    return np.ndarray(shape, dtype, block, offset)


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view that refuses writes, on the same bytes."""
    view = array.view()
    view.flags.writeable = False
    return view


class _LastView(weakref.ref[BlockArray]):
    """A weak reference that knows what to do at the end."""

    __slots__ = ("args", "callback")
    callback: Callable[..., object]
    args: tuple[object, ...]


_awaited: dict[int, _LastView] = {}


def _on_gone(reference: weakref.ref[BlockArray]) -> None:
    known = _awaited.pop(id(reference), None)
    if known is not None:
        known.callback(*known.args)


def on_last_view_gone(block: BlockArray, callback: Callable[..., object], *args: object) -> None:
    """Hot path. Call `callback(*args)` once the block and all arrays over it are gone, in whatever thread that happens.

    At the interpreter's exit it may not be called: the lane goes with the process.
    """
    # A weak reference of our own: 0.5 us; weakref.finalize: 1.4 us.
    reference = _LastView(block, _on_gone)
    reference.callback = callback
    reference.args = args
    _awaited[id(reference)] = reference
