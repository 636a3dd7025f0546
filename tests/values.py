"""Random values of every kind that people pass to calls and return from models, each with what must come out of it.

What is expected is written down where a value is made, by other means than the code that is tested. Few names and few
shapes, so that values of one form come again and again with other bytes: in another order, layout, class or type.
"""

import enum
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

REFUSED: Any = "this is not carried"
"""Expected where a typed error must come."""

NAMES = ("x", "y", "z")
SHAPES: tuple[tuple[int, ...], ...] = ((3,), (2, 3), (4, 4), (), (0, 3), (1,), (2000,))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_INTS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = [BFLOAT16, *map(np.dtype, [*_INTS, "float16", "float32", "float64", "complex64", "complex128"])]


class Sample(NamedTuple):
    """A value, and the NumPy array or plain value that it must become, or REFUSED."""

    value: Any
    expected: Any


class Source(random.Random):
    """Where the values of one sequence come from: few dtypes and shapes, so that forms come again."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.shapes = self.sample(SHAPES, 2)
        self.dtypes = self.sample(DTYPES, 2)


class _Metres(np.ndarray[Any, Any]):
    """Numbers that mean something more."""


class _Colour(enum.IntEnum):
    RED = 3


def same(got: Any, expected: Any) -> bool:
    """The same type, dtype, shape and bits; plain values the same to the last digit and sign."""
    if isinstance(expected, np.ndarray):
        return (
            isinstance(got, np.ndarray)
            and got.dtype == expected.dtype
            and got.shape == expected.shape
            and (got.tobytes() == expected.tobytes() if expected.dtype.char not in "gG" else (got == expected).all())
        )
    return type(got) is type(expected) and repr(got) == repr(expected)


def arrays(rng: Source) -> Sample:
    """A plain array in one of many layouts and byte orders."""
    array = _array(rng)
    return Sample(_laid_out(rng, array), array)


def _array(rng: Source) -> np.ndarray[Any, Any]:
    """Native, contiguous."""
    shape = rng.choice(rng.shapes)
    dtype = rng.choice(rng.dtypes)
    numbers = np.random.default_rng(rng.getrandbits(32)).integers(-100, 100, shape)
    with np.errstate(all="ignore"):
        array = np.asarray(numbers).astype(dtype)
    return np.ascontiguousarray(array).reshape(shape)


def _laid_out(rng: Source, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values in another order of bytes, or of memory, or read-only."""
    if rng.random() < 0.4:
        array = array.astype(array.dtype.newbyteorder(">"))
    way = rng.randrange(10)
    if way == 0 and array.ndim:
        array = np.asfortranarray(array)
    elif way == 1 and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        array = wide[..., ::2]
    elif way == 2 and array.ndim:
        array = np.ascontiguousarray(array[::-1])[::-1]
    elif way == 3:
        array = array.copy()
        array.flags.writeable = False
    elif way == 4:
        room = np.zeros(array.nbytes + 1, np.uint8)
        odd = np.ndarray(array.shape, array.dtype, room, 1)  # not aligned
        odd[...] = array
        array = odd
    return array


def of_other_classes(rng: Source) -> Sample:
    """Arrays by another name, and scalars of NumPy's."""
    array = _array(rng)
    way = rng.randrange(5)
    if way == 0:
        matrix = np.atleast_2d(array) if array.ndim < 2 else array
        return Sample(matrix.view(np.matrix), matrix)
    if way == 1:
        return Sample(array.view(np.recarray), array)
    if way == 2 and array.size:
        one = array.reshape(-1)[0]
        return Sample(one, np.array(one))
    if way == 3 and array.ndim and array.size:
        repeated = np.broadcast_to(array[:1], array.shape)
        return Sample(repeated, repeated.copy())
    wide = np.array(array, np.longdouble) if array.dtype.kind in "iuf" else array
    return Sample(wide.astype(wide.dtype.newbyteorder(">")), wide)


def without_a_type(rng: Source) -> Sample:
    """Arrays whose dtype the wire does not have; some of the shapes and sizes are those of others that it has."""
    shape = rng.choice(rng.shapes)
    made: list[Callable[[], Any]] = [
        lambda: np.full(shape, None, object),
        lambda: np.full(shape, 1.5, object),
        lambda: np.zeros(shape, [("a", "f4")]),
        lambda: np.zeros(shape, np.dtype((np.float32, {"low": (np.uint16, 0), "high": (np.uint16, 2)}))),
        lambda: np.zeros(shape, [("a", "f4")]).view(np.recarray),
        lambda: np.zeros(shape, "datetime64[s]"),
        lambda: np.zeros(shape, "timedelta64[ns]"),
        lambda: np.zeros(shape, "U4"),
        lambda: np.zeros(shape, "S4"),
        lambda: np.zeros(shape, "V4"),
        lambda: np.zeros(shape, ml_dtypes.float8_e4m3fn),
        lambda: np.zeros(shape, ml_dtypes.int4),
        lambda: np.zeros((1,) * 9, np.float32),
        lambda: np.full(shape, "text", np.dtypes.StringDType()),
        lambda: np.full(shape, "text", np.dtypes.StringDType(na_object=None)),
        lambda: np.full(shape, "text", np.dtypes.StringDType(na_object=[])),  # it has no hash
        lambda: np.ma.masked_array(_array(rng), mask=rng.random() < 0.5),
        lambda: np.ma.masked,
        lambda: _array(rng).view(_Metres),
        lambda: np.datetime64(5, "ns"),
        lambda: [np.datetime64(5, "ns")],
        lambda: {"for": np.timedelta64(5, "ns")},
        lambda: memoryview(np.zeros(5, np.int32)),
    ]
    return Sample(rng.choice(made)(), REFUSED)


def plain(rng: Source) -> Sample:
    """What is no array, with what it becomes."""
    number = rng.randrange(-3, 4)
    text = rng.choice(("", "a", "b", "long" * 100))
    return rng.choice(
        [
            Sample(number, number),
            Sample(bool(number), bool(number)),
            Sample(float(number), float(number)),
            Sample(-0.0, -0.0),
            Sample(float("nan"), float("nan")),
            Sample(2**63 + 5, 2**63 + 5),
            Sample(2**64, REFUSED),
            Sample(None, None),
            Sample(text, text),
            Sample(np.str_(text), text),
            Sample(_Colour.RED, 3),
            Sample(b"short", b"short"),
            Sample(bytes([number & 255]) * 300, bytes([number & 255]) * 300),
            Sample(bytearray(300), bytes(300)),
            Sample(memoryview(b"ab" * 200)[::2], b"a" * 200),
            Sample([number, [text]], [number, [text]]),
            Sample((number, np.float32(0.5)), [number, 0.5]),
            Sample({"a": {"b": [number]}}, {"a": {"b": [number]}}),
            Sample(OrderedDict(a=number), {"a": number}),
            Sample([np.zeros(2)], REFUSED),
            Sample({1: 2}, REFUSED),
            Sample({number}, REFUSED),
            Sample(1j, REFUSED),
            Sample(object(), REFUSED),
            Sample("\ud800", REFUSED),
        ]
    )


def tensors(rng: Source) -> Sample:
    """torch tensors that stand for an array."""
    import torch

    array = _array(rng)
    if array.dtype == BFLOAT16:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    way = rng.randrange(6)
    if way == 0 and array.ndim == 2:
        return Sample(tensor.T, np.ascontiguousarray(array.T))
    if way == 1 and array.ndim and array.size:
        return Sample(tensor[:1].expand(tensor.shape), np.broadcast_to(array[:1], array.shape).copy())
    if way == 2 and array.dtype.kind == "c":
        return Sample(tensor.conj(), np.asarray(np.conj(array)))
    if way == 3 and array.dtype.kind == "c":
        return Sample(tensor.conj().imag, np.ascontiguousarray(np.conj(array).imag).reshape(array.shape))
    if way == 4 and array.dtype.kind == "f":
        return Sample(tensor.clone().requires_grad_(), array)
    if way == 5 and array.dtype.kind == "f":
        return Sample(torch.nn.Parameter(tensor.clone()), array)
    return Sample(tensor, array)


def tensors_without_a_type(rng: Source) -> Sample:
    """torch tensors that are no arrays; some look like one that came before."""
    import torch

    shape = rng.choice(rng.shapes)
    ones = torch.ones(shape)
    made: list[Callable[[], Any]] = [
        lambda: ones.to_sparse(),
        lambda: torch.ones(4, 4).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(ones, 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.empty(shape, device="meta"),
        lambda: ones.as_subclass(_tensor_class()),
        lambda: ones.to(torch.float8_e4m3fn),
        lambda: ones.to(torch.complex32),
        lambda: torch.ones(3, 4).to_mkldnn(),
    ]
    return Sample(rng.choice(made)(), REFUSED)


@cache
def _tensor_class() -> Any:
    import torch

    return type("Metres", (torch.Tensor,), {})


Kinds = list[Callable[[Source], Sample]]
KINDS: Kinds = [arrays, arrays, arrays, of_other_classes, without_a_type, plain]
WITH_TORCH: Kinds = [*KINDS, tensors, tensors, tensors_without_a_type]


def several(rng: Source, kinds: Kinds) -> Sample:
    """Named values, few or none; all are refused where one is."""
    names = rng.sample(NAMES, rng.choice((0, 1, 1, 2, 3)))
    samples = {name: rng.choice(kinds)(rng) for name in names}
    if any(sample.expected is REFUSED for sample in samples.values()):
        expected = REFUSED
    else:
        expected = {name: sample.expected for name, sample in samples.items()}
    return Sample({name: sample.value for name, sample in samples.items()}, expected)


def result(rng: Source, kinds: Kinds) -> Sample:
    """What a model may return: named values, or one value, which is then called "result"."""
    if rng.random() < 0.5:
        return several(rng, kinds)
    value, expected = rng.choice(kinds)(rng)
    if isinstance(value, dict):
        return Sample(value, expected)
    return Sample(value, expected if expected is REFUSED else {"result": expected})
