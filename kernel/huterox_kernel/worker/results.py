"""What a model returned, taken apart for the wire; what follows from names, dtypes and shapes alone is worked out once.

A model gives results of the same form again and again. Where a result is an array or a dict of arrays, its form is
found again under names, dtypes and shapes: for whole messages the encoded meta map and the places of the arrays, for a
caller who is told each form once its number and the arrays to write through (see `huterox_wire.forms`). Both are
bounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from huterox_kernel.worker.tracebacks import model_error
from huterox_wire.arrays import NAME_OF_DTYPE, is_plain_tensor
from huterox_wire.errors import CallerError, ModelError, TooLarge
from huterox_wire.header import HEADER_NBYTES, Buffer
from huterox_wire.message import align, check_message_nbytes, packed_nbytes
from huterox_wire.meta import ReplyMeta, TensorSpec, encode_meta
from huterox_wire.payload import split_values

LAYOUTS_MAX: Final = 256
"""Layouts remembered; one more, and they are collected anew."""

_ndarray = np.ndarray
_uint8 = np.uint8
_PAD: Final = bytes(64)


class Layout(NamedTuple):
    """Where everything lies in a packed message that carries a result.

    `body` begins after the header: the meta map and, where there are arrays, the padding up to the first. `gaps` holds,
    for each array, where the padding before it begins (none before the first), its own begin, and its end.
    """

    nbytes: int
    tensor_count: int
    meta_nbytes: int
    body: bytes
    gaps: tuple[tuple[int, int, int], ...]


def layout_of(meta: bytes, sizes: Sequence[int]) -> Layout:
    """Lay a result out. Raises TooLarge: over what one message carries."""
    nbytes = packed_nbytes(len(meta), sizes)
    check_message_nbytes(nbytes)
    end = HEADER_NBYTES + len(meta)
    gaps = []
    for size in sizes:
        start = align(end)
        gaps.append((end, start, start + size))
        end = start + size
    body = meta
    if gaps:
        first_pad, first_start, first_end = gaps[0]
        body += _PAD[: first_start - first_pad]
        gaps[0] = (first_start, first_start, first_end)
    return Layout(nbytes, len(sizes), len(meta), body, tuple(gaps))


def write(layout: Layout, buffers: Sequence[Buffer], view: memoryview) -> None:
    """Hot path. All but the header. The gaps are filled: what lay there before was somebody else's answer."""
    view[HEADER_NBYTES : HEADER_NBYTES + len(layout.body)] = layout.body
    for buffer, (pad, start, end) in zip(buffers, layout.gaps, strict=True):
        if pad != start:
            view[pad:start] = _PAD[: start - pad]
        view[start:end] = buffer


class Parts(NamedTuple):
    """A result taken apart: its meta map, encoded, what that says about the tensors, and their bytes."""

    meta: bytes
    specs: list[TensorSpec]
    buffers: Sequence[Buffer]


def take_apart(result: Any) -> Parts:
    """Any result: a mapping as it is, anything else as "result".

    Raises:
        ModelError: the model returned what is not carried.
        TooLarge: it is more than one message carries.
    """
    if not isinstance(result, Mapping):
        result = {"result": result}
    try:
        params, specs, buffers = split_values(result)
        return Parts(encode_meta(ReplyMeta(params, specs)), specs, buffers)
    except TooLarge:
        raise
    except CallerError as exc:
        raise ModelError(f"the model returned what is not carried: {exc.message}", **exc.details) from exc
    except BaseException as exc:  # the model's own mapping, array or tensor type
        raise model_error(exc) from exc


def key_of(result: Any) -> tuple[Any, ...] | None:
    """Hot path. What the form of a result follows from; None: it is not made of arrays or torch tensors alone."""
    kind = type(result)
    if kind is _ndarray:
        return (result.dtype, result.shape)
    if kind is not dict:
        return (result.dtype, result.shape) if is_plain_tensor(result) else None
    key: list[Any] = []
    for name, value in result.items():
        if type(value) is not _ndarray and not is_plain_tensor(value):
            return None
        key += (name, value.dtype, value.shape)
    return tuple(key)


class Layouts:
    """Results as whole messages, with remembered layouts."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[Any, ...], Layout] = {}

    def take_apart(self, result: Any) -> tuple[Layout, Sequence[Buffer]]:
        """Hot path. Raises as the function `take_apart`."""
        kind = type(result)
        if kind is _ndarray:
            result = {"result": result}
        elif kind is not dict:
            return self._take_apart(result)
        key: list[Any] = []
        for name, value in result.items():
            if type(value) is not _ndarray or not value.flags.c_contiguous:
                return self._take_apart(result)
            key += (name, value.dtype, value.shape)
        try:
            layout = self._layouts.get(tuple(key))
        except TypeError:  # a dtype that has no hash: it is not carried
            return self._take_apart(result)
        if layout is None:
            return self._take_apart(result, tuple(key))
        return layout, [value.reshape(-1).view(_uint8).data for value in result.values()]

    def _take_apart(self, result: Any, key: tuple[Any, ...] | None = None) -> tuple[Layout, Sequence[Buffer]]:
        meta, _, buffers = take_apart(result)
        layout = layout_of(meta, [len(buffer) for buffer in buffers])
        # An array of another dtype than the wire's was converted: its own bytes are not what the layout is of.
        if key and all(dtype in NAME_OF_DTYPE for dtype in key[1::3]):
            if len(self._layouts) >= LAYOUTS_MAX:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout, buffers
