"""What a request's meta map asks for, worked out once.

Callers send the same meta bytes again and again: the same method, names, dtypes and shapes. Everything that follows
from those bytes alone is remembered under them: the method, the checks, where each tensor lies. What is remembered is
bounded, and only metas whose plain values are simple ones are.
"""

from typing import Any, Final, NamedTuple

from huterox_kernel.worker.inputs import Expected, RequestBytes, array_at, tensor_at
from huterox_kernel.worker.runtimes.base import Method, Model
from huterox_wire.errors import InvalidInput
from huterox_wire.header import HEADER_NBYTES, Header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import align, decode, slice_tensors
from huterox_wire.meta import CallMeta, TensorSpec, decode_call
from huterox_wire.payload import DTYPE_OF_NAME

PLANS_MAX: Final = 256
"""Metas remembered of one lane; one more, and they are collected anew."""

META_NBYTES_MAX: Final = 2048
"""Longer metas are not remembered."""

_SIMPLE: Final = frozenset({type(None), bool, int, float, str, bytes})
_PACKED: Final = int(Flag.PACKED)


class Input(NamedTuple):
    """One tensor of a request: what it becomes, and where its bytes lie in the message."""

    spec: TensorSpec
    dtype: Any  # None: a byte string
    is_torch: bool
    start: int
    end: int


class Plan:
    """How to call a method with the requests that have one meta."""

    __slots__ = ("inputs", "method", "nbytes", "params")

    def __init__(self, method: Method, params: dict[str, Any], inputs: list[Input], nbytes: int) -> None:
        self.method = method
        self.params = params
        self.inputs = inputs
        self.nbytes = nbytes

    def values(self, view: memoryview, block: RequestBytes) -> dict[str, Any]:
        """Hot path. The inputs of one request, by name.

        Raises:
            InvalidInput: a shape that no array can have, or a dtype that torch does not have.
        """
        values = self.params.copy()
        for spec, dtype, is_torch, start, end in self.inputs:
            if dtype is None:
                values[spec.name] = bytes(view[start:end])
            elif is_torch:
                values[spec.name] = tensor_at(spec, dtype, block, start)
            else:
                values[spec.name] = array_at(spec, dtype, block, start)
        return values


class Plans:
    """Makes plans, and remembers them."""

    def __init__(self, model: Model, expected: Expected) -> None:
        self._model = model
        self._expected = expected
        self._plans: dict[bytes, Plan] = {}

    def plan(self, header: Header, view: memoryview) -> Plan:
        """Hot path. The plan for a request.

        Raises:
            HuteroxError: the request is malformed, or not what method and model file take.
        """
        kind, flags, count, _, _, _, meta_nbytes = header
        # Copied before anything is made of it: the caller can still write into its block.
        meta = bytes(view[HEADER_NBYTES : HEADER_NBYTES + meta_nbytes])
        plan = self._plans.get(meta)
        if (
            plan is not None
            and plan.nbytes == len(view)
            and len(plan.inputs) == count
            and kind is Kind.CALL
            and flags & _PACKED
        ):
            return plan
        return self._make(view)

    def _make(self, view: memoryview) -> Plan:
        message = decode((view,))
        if message.header.kind is not Kind.CALL:
            raise InvalidInput(f"a container takes calls, not {message.header.kind.name}")
        data = bytes(message.meta)
        meta = decode_call(data)
        method = self._model.method(meta.method)
        self._expected.check(meta.params, meta.tensors)
        slice_tensors(message, [spec.nbytes for spec in meta.tensors])
        inputs = _inputs_of(meta, HEADER_NBYTES + len(data), method)
        method.check([*meta.params, *(spec.name for spec in meta.tensors)])
        plan = Plan(method, meta.params, inputs, len(view))
        if len(data) <= META_NBYTES_MAX and all(type(value) in _SIMPLE for value in meta.params.values()):
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[data] = plan
        return plan


def _inputs_of(meta: CallMeta, end: int, method: Method) -> list[Input]:
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
        if dtype is None and spec.dtype != "bytes":
            raise InvalidInput(f"{spec.name!r}: this machine has no dtype {spec.dtype!r}", dtype=spec.dtype)
        inputs.append(Input(spec, dtype, spec.name in method.torch_inputs, start, end))
    return inputs
