"""What a request asks for, worked out once.

Callers send the same meta bytes again and again: the same method, names, dtypes and shapes. Everything that follows
from those bytes alone is remembered: the method, the checks, where each tensor lies. It is found again by the meta
bytes, or by the number that the caller gave to them (see `huterox_wire.forms`). What is remembered is bounded.
"""

import struct
from collections.abc import Container
from copy import deepcopy
from typing import Any, Final, NamedTuple

from huterox_kernel.worker.inputs import Expected, RequestBytes, array_at, bytes_at, copied_at, tensor_at
from huterox_kernel.worker.runtimes.base import Method, Model
from huterox_shm.lane import ContainerEnd
from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.errors import HuteroxError, InvalidInput
from huterox_wire.forms import FORMS_MAX
from huterox_wire.header import HEADER_NBYTES, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import align, decode, slice_tensors
from huterox_wire.meta import CallMeta, TensorSpec, decode_call

_REFERENCE: Final = struct.Struct("<QQ")

PLANS_MAX: Final = 256
"""Metas remembered of one lane; one more, and they are collected anew."""

BLOCKS_MAX: Final = 1024
"""Places that a plan remembers its blocks at; one more, and they are collected anew."""

META_NBYTES_MAX: Final = 2048
"""Longer metas are not remembered."""

_SIMPLE: Final = frozenset({type(None), bool, int, float, str, bytes})
_PACKED: Final = int(Flag.PACKED)


class Input(NamedTuple):
    """One tensor of a request: what it becomes, and where its bytes lie in the request's block."""

    name: str
    dtype: Any  # None: a byte string
    shape: tuple[int, ...]
    is_torch: bool
    start: int
    nbytes: int
    writable: bool


class Plan:
    """How to call a method with the requests that have one meta.

    `single` is the name, dtype and shape of the one input that is a NumPy array, where there is nothing else. `blocks`
    remembers the objects that arrays are made over, by their offset: a lane uses the same blocks again and again.
    `writes`: the model may write into some of its inputs. `is_quick`: the last call of this kind was short.
    With `copies` the inputs are copies, and no block is remembered.
    `is_nested`: the plan is used again, and its plain values hold lists or maps, which a model may change.
    """

    __slots__ = (
        "blocks",
        "function",
        "inputs",
        "is_nested",
        "is_quick",
        "is_single",
        "method",
        "nbytes",
        "params",
        "single",
        "writes",
        "_bytes_at",
    )

    def __init__(
        self, method: Method, params: dict[str, Any], inputs: tuple[Input, ...], nbytes: int, copies: bool = False
    ) -> None:
        self.method = method
        self.function = method.function
        self.params = params
        self.inputs = inputs
        self.nbytes = nbytes
        self.is_nested = False
        self.is_quick = False
        self.writes = any(item.writable for item in inputs)
        self.blocks: dict[int, RequestBytes] = {}
        first = inputs[0] if len(inputs) == 1 and nbytes and not params and not method.allocates else None
        self.is_single = first is not None and first.dtype is not None and not first.is_torch and not copies
        self._bytes_at = copied_at if copies else bytes_at
        self.single: tuple[str, Any, tuple[int, ...]] = first[:3] if first is not None else ("", None, ())

    def block(self, lane: ContainerEnd, offset: int) -> RequestBytes:
        """A block at a place that is not remembered yet."""
        if len(self.blocks) >= BLOCKS_MAX:
            self.blocks.clear()
        block = self.blocks[offset] = self.bytes_at(lane, offset, self.nbytes)
        return block

    def bytes_at(self, lane: ContainerEnd, offset: int, nbytes: int) -> RequestBytes:
        """What the arrays of a request are made over."""
        return self._bytes_at(lane.writable if self.writes else lane.readable, offset, nbytes)

    def refer(self, lane: ContainerEnd, offset: int, nbytes: int, blocks: list[RequestBytes]) -> None:
        """Find the blocks of a request whose tensors lie apart; appended to `blocks`, whatever is raised then.

        Raises:
            InvalidInput: the references are not those of these inputs.
            PeerProtocolError: one leads outside of the lane.
        """
        table = bytes(lane.view(offset, nbytes))  # copied before it is checked
        if nbytes != len(self.inputs) * _REFERENCE.size:
            raise InvalidInput(f"{len(self.inputs)} tensors, and references of {nbytes} bytes")
        for item, (at, size) in zip(self.inputs, _REFERENCE.iter_unpack(table), strict=True):
            if size != item.nbytes:
                raise InvalidInput(f"{item.name!r} needs {item.nbytes} bytes, its block has {size}")
            lane.check_block(at, size)
            blocks.append(self.bytes_at(lane, at, size))

    def plain_values(self) -> dict[str, Any]:
        """Hot path. The inputs that are no tensors, for one call."""
        return deepcopy(self.params) if self.is_nested else self.params.copy()

    def values(self, block: RequestBytes) -> dict[str, Any]:
        """Hot path. The inputs of one request, by name.

        Raises:
            InvalidInput: a shape that no array can have, or a dtype that torch does not have.
        """
        values = self.plain_values()
        for item in self.inputs:
            values[item.name] = _value(item, block, item.start)
        return values

    def values_of(self, blocks: list[RequestBytes]) -> dict[str, Any]:
        """The same where each tensor has a block of its own."""
        values = self.plain_values()
        for item, block in zip(self.inputs, blocks, strict=True):
            values[item.name] = _value(item, block, 0)
        return values


def _value(item: Input, block: RequestBytes, start: int) -> Any:
    """Hot path."""
    name, dtype, shape, is_torch, _, nbytes, writable = item
    if dtype is None:
        return block[start : start + nbytes].tobytes()
    if is_torch:
        return tensor_at(name, dtype, shape, block, start)
    array = array_at(name, dtype, shape, block, start)
    if not writable:
        array.flags.writeable = False
    return array


class Plans:
    """The plans of one lane."""

    def __init__(self, model: Model, expected: Expected, copies: bool) -> None:
        self._model = model
        self._copies = copies
        self._expected = expected
        self._plans: dict[bytes, Plan] = {}
        self._numbered: dict[int, Plan | HuteroxError] = {}
        self.numbered = self._numbered.get
        """What a number stands for: a plan, the error that its definition was, or None."""
        self._singles: dict[int, Plan] = {}
        self.single = self._singles.get
        """Hot path. The plan of a number where it has a single input, else None."""

    def define(self, number: int, meta: bytes) -> None:
        """From now on `number` stands for this meta map, or for what is wrong with it.

        Raises:
            HuteroxError: what is wrong with it, or with the number.
        """
        if not 0 < number <= FORMS_MAX:
            raise InvalidInput(f"{number} is no number for a form; they are 1 to {FORMS_MAX}")
        self._singles.pop(number, None)
        try:
            plan = self._numbered[number] = self._plan_of(meta, 0)
        except HuteroxError as error:
            error.__cause__ = error.__context__ = None  # their frames hold the lane
            self._numbered[number] = error
            raise
        plan.is_nested = not _are_simple(plan.params)
        if plan.is_single:
            self._singles[number] = plan

    def plan(self, view: memoryview) -> Plan:
        """Hot path. The plan for a whole message.

        Raises:
            HuteroxError: the request is malformed, or not what method and model file take.
        """
        kind, flags, count, _, _, _, meta_nbytes = unpack_header(view)
        # Copied before anything is made of it: the caller can still write into its block.
        head = bytes(view[: HEADER_NBYTES + meta_nbytes])
        plan = self._plans.get(head[HEADER_NBYTES:])
        if (
            plan is not None
            and plan.nbytes == len(view)
            and len(plan.inputs) == count
            and kind is Kind.CALL
            and flags & _PACKED
        ):
            return plan
        return self._make(head, view)

    def _make(self, head: bytes, view: memoryview) -> Plan:
        header = unpack_header(head)
        message = decode((view,))
        if header != message.header:
            raise InvalidInput("the request was changed while it was read")
        if header.kind is not Kind.CALL:
            raise InvalidInput(f"a container takes calls, not {header.kind.name}")
        data = head[HEADER_NBYTES:]
        plan = self._plan_of(data, HEADER_NBYTES + len(data))
        slice_tensors(message, [item.nbytes for item in plan.inputs])
        plan.nbytes = len(view)
        if len(data) <= META_NBYTES_MAX and _are_simple(plan.params):
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[data] = plan
        return plan

    def _plan_of(self, data: bytes, start: int) -> Plan:
        """The plan for a meta map, with the tensors laid out from `start` on."""
        meta = decode_call(data)
        method = self._model.method(meta.method)
        self._expected.check(meta.params, meta.tensors)
        inputs = _inputs_of(meta, start, method, self._expected.writable)
        method.check([*meta.params, *(spec.name for spec in meta.tensors)])
        nbytes = inputs[-1].start + inputs[-1].nbytes if inputs else 0
        return Plan(method, meta.params, inputs, nbytes, self._copies)


def _are_simple(params: dict[str, Any]) -> bool:
    return all(type(value) in _SIMPLE for value in params.values())


def _inputs_of(meta: CallMeta, end: int, method: Method, writable: Container[str]) -> tuple[Input, ...]:
    """Where the tensors lie whose total size has been checked. Raises InvalidInput: a name twice, a foreign dtype."""
    names = set(meta.params)
    inputs = []
    for spec in meta.tensors:
        if spec.name in names:
            raise InvalidInput(f"{spec.name!r} is given twice")
        names.add(spec.name)
        start = align(end)
        end = start + spec.nbytes
        dtype = DTYPE_OF_NAME.get(spec.dtype)
        if dtype is None:
            _check_bytes(spec)
        is_torch = dtype is not None and spec.name in method.torch_inputs
        inputs.append(Input(spec.name, dtype, tuple(spec.shape), is_torch, start, end - start, spec.name in writable))
    return tuple(inputs)


def _check_bytes(spec: TensorSpec) -> None:
    if spec.dtype != "bytes":
        raise InvalidInput(f"{spec.name!r}: this machine has no dtype {spec.dtype!r}", dtype=spec.dtype)
    if len(spec.shape) != 1:
        raise InvalidInput(f"{spec.name!r}: bytes have one dimension, got shape {spec.shape}")
