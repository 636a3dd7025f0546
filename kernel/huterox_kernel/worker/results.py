"""What a model returned, taken apart for the wire; what follows from names, dtypes and shapes alone is worked out once.

A model gives results of the same form again and again. So the encoded meta map and the places of the arrays are
remembered under names, dtypes and shapes, where a result is a plain dict of plain arrays. Their number is bounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from huterox_kernel.worker.tracebacks import model_error
from huterox_wire.errors import CallerError, ModelError, TooLarge
from huterox_wire.header import HEADER_NBYTES, Buffer
from huterox_wire.message import align, check_message_nbytes, packed_nbytes
from huterox_wire.meta import ReplyMeta, encode_meta
from huterox_wire.payload import split_values

FORMS_MAX: Final = 256
"""Forms remembered; one more, and they are collected anew."""

_ndarray = np.ndarray
_uint8 = np.uint8
_PAD: Final = bytes(64)


class Form(NamedTuple):
    """Where everything lies in a packed message that carries a result.

    `body` begins after the header: the meta map and, where there are arrays, the padding up to the first. `gaps` holds,
    for each array, where the padding before it begins (none before the first), its own begin, and its end.
    """

    nbytes: int
    tensor_count: int
    meta_nbytes: int
    body: bytes
    gaps: tuple[tuple[int, int, int], ...]


def form_of(meta: bytes, sizes: Sequence[int]) -> Form:
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
    return Form(nbytes, len(sizes), len(meta), body, tuple(gaps))


def write(form: Form, buffers: Sequence[Buffer], view: memoryview) -> None:
    """Hot path. All but the header. The gaps are filled: what lay there before was somebody else's answer."""
    view[HEADER_NBYTES : HEADER_NBYTES + len(form.body)] = form.body
    for buffer, (pad, start, end) in zip(buffers, form.gaps, strict=True):
        if pad != start:
            view[pad:start] = _PAD[: start - pad]
        view[start:end] = buffer


class Results:
    """Takes results apart, and remembers their forms."""

    def __init__(self) -> None:
        self._forms: dict[tuple[Any, ...], Form] = {}

    def take_apart(self, result: Any) -> tuple[Form, Sequence[Buffer]]:
        """Hot path. A mapping as it is, anything else as "result".

        Raises:
            ModelError: the model returned what is not carried.
            TooLarge: it is more than one message carries.
        """
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
        form = self._forms.get(tuple(key))
        if form is None:
            return self._take_apart(result, tuple(key))
        return form, [value.reshape(-1).view(_uint8).data for value in result.values()]

    def _take_apart(self, result: Any, key: tuple[Any, ...] | None = None) -> tuple[Form, Sequence[Buffer]]:
        if not isinstance(result, Mapping):
            result = {"result": result}
        try:
            params, specs, buffers = split_values(result)
            form = form_of(encode_meta(ReplyMeta(params, specs)), [len(buffer) for buffer in buffers])
        except TooLarge:
            raise
        except CallerError as exc:
            raise ModelError(f"the model returned what is not carried: {exc.message}", **exc.details) from exc
        except Exception as exc:  # the model's own mapping, array or tensor type
            raise model_error(exc) from exc
        if key:
            if len(self._forms) >= FORMS_MAX:
                self._forms.clear()
            self._forms[key] = form
        return form, buffers
