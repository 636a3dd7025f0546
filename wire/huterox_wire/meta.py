"""The meta maps, typed. Each is one msgpack map whose keys are the field names below.

Unknown keys are ignored, so that a newer peer may add some; missing keys take their default. Decoding checks types,
lengths and nesting, and raises nothing but `InvalidInput`.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Struct, field

from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.errors import HuteroxError, InvalidInput, TooLarge, from_wire
from huterox_wire.header import Buffer
from huterox_wire.limits import (
    DEPTH_MAX,
    META_NBYTES_MAX,
    NAME_NBYTES_MAX,
    RANK_MAX,
    TENSORS_MAX,
    TRACE_NBYTES_MAX,
)

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_NBYTES_MAX)]
Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_M = TypeVar("_M", bound=Struct)
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class TensorSpec(Struct, array_like=True, gc=False):
    """One tensor: `[name, dtype, shape]`. Its bytes follow in C order."""

    name: Name
    dtype: str
    shape: Annotated[list[Dimension], msgspec.Meta(max_length=RANK_MAX)]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's bytes. Raises InvalidInput for an unknown dtype."""
        nbytes = ITEM_NBYTES.get(self.dtype)
        if nbytes is None:
            raise InvalidInput(f"tensor {self.name!r}: unknown dtype {self.dtype!r}", known=sorted(ITEM_NBYTES))
        for dimension in self.shape:
            nbytes *= dimension
        return nbytes


class CallMeta(Struct, omit_defaults=True):
    """Meta of CALL. Arguments are split: arrays are in `tensors`, everything else in `params`."""

    method: Name = "predict"
    params: dict[Name, Any] = field(default_factory=dict)
    tensors: Annotated[list[TensorSpec], msgspec.Meta(max_length=TENSORS_MAX)] = field(default_factory=list)
    trace: Annotated[str, msgspec.Meta(max_length=TRACE_NBYTES_MAX)] = ""


class ReplyMeta(Struct, omit_defaults=True):
    """Meta of REPLY and PART to a CALL: the result's names, split like the arguments."""

    params: dict[Name, Any] = field(default_factory=dict)
    tensors: Annotated[list[TensorSpec], msgspec.Meta(max_length=TENSORS_MAX)] = field(default_factory=list)


class ErrorMeta(Struct, omit_defaults=True):
    """Meta of ERROR."""

    code: str
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] = field(default_factory=dict)


class OpenMeta(Struct, omit_defaults=True):
    """Meta of OPEN; its REPLY is `OpenedMeta`, and carries the handle in its header too."""

    service: Name
    tenant: Annotated[str, msgspec.Meta(max_length=NAME_NBYTES_MAX)] = ""  # empty: the default tenant


class OpenedMeta(Struct, omit_defaults=True):
    """A handle stays good until the service is deleted, over restarts of the switchboard too."""

    handle: int
    service: str
    tenant: str
    model: str
    tier: str


class AdminMeta(Struct, omit_defaults=True):
    """Meta of ADMIN: a verb and its arguments. Its REPLY is `AdminReplyMeta`."""

    verb: Name
    args: dict[str, Any] = field(default_factory=dict)


class AdminReplyMeta(Struct, omit_defaults=True):
    result: Any = None


def encoder(**options: Any) -> msgspec.msgpack.Encoder:
    """A msgpack encoder in this wire's dialect."""
    return msgspec.msgpack.Encoder(**options)


_ENCODER = encoder()


def encode_meta(meta: Struct) -> bytes:
    """Hot path. The msgpack bytes of a meta map.

    Raises:
        InvalidInput: a value that msgpack cannot carry.
        TooLarge: over META_NBYTES_MAX.
    """
    try:
        data = _ENCODER.encode(meta)
    except (TypeError, OverflowError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"a value cannot be carried: {exc}") from exc
    if len(data) > META_NBYTES_MAX:
        raise TooLarge(
            f"meta of {len(data)} bytes; at most {META_NBYTES_MAX} are carried (send long data as an array or bytes)",
            need=len(data),
            limit=META_NBYTES_MAX,
        )
    return data


def meta_decoder(cls: type[_M]) -> Callable[[Buffer], _M]:
    """Make the checking decoder of one meta type. It raises nothing but InvalidInput."""
    decode = msgspec.msgpack.Decoder(cls).decode
    plain_fields = [f.name for f in msgspec.structs.fields(cls) if f.type in (dict[str, Any], dict[Name, Any], Any)]

    def decode_meta(data: Buffer) -> _M:
        try:
            meta = decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError, MemoryError) as exc:
            raise InvalidInput(f"{cls.__name__} is malformed: {exc}") from exc
        for name in plain_fields:
            check_plain(getattr(meta, name))
        return meta

    return decode_meta


def check_plain(value: Any, depth: int = 0) -> None:
    """Raise InvalidInput unless `value` is made of None, bool, int, float, str, bytes, list and str-keyed dict."""
    if type(value) in _SCALARS:
        return
    if depth >= DEPTH_MAX:
        raise InvalidInput(f"values are nested deeper than {DEPTH_MAX}", limit=DEPTH_MAX)
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidInput(f"a map key must be text, got {type(key).__name__}")
            if type(item) not in _SCALARS:
                check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            if type(item) not in _SCALARS:
                check_plain(item, depth + 1)
    else:
        raise InvalidInput(f"a value of type {type(value).__name__} is not carried")


decode_call = meta_decoder(CallMeta)
decode_reply = meta_decoder(ReplyMeta)
decode_error_meta = meta_decoder(ErrorMeta)
decode_open = meta_decoder(OpenMeta)
decode_opened = meta_decoder(OpenedMeta)
decode_admin = meta_decoder(AdminMeta)
decode_admin_reply = meta_decoder(AdminReplyMeta)


def error_meta(error: HuteroxError) -> bytes:
    """Meta bytes of an ERROR for this exception. Never raises: facts that cannot be carried are sent as text."""
    try:
        data = encode_meta(ErrorMeta(error.code, error.message, error.retryable, error.details))
        decode_error_meta(data)  # what msgpack can write is more than a receiver takes
    except HuteroxError:
        details = {_carried(key, 64): _carried(value) for key, value in list(error.details.items())[:4]}
        data = encode_meta(ErrorMeta(error.code, _carried(error.message), error.retryable, details))
    return data


def _carried(value: object, nbytes_max: int = META_NBYTES_MAX // 8) -> str:
    """`value` as text of at most `nbytes_max` bytes of UTF-8, whatever it is."""
    try:
        text = str(value)
    except Exception as exc:  # noqa: BLE001 - a foreign __str__ may raise anything
        text = f"<{type(value).__name__}: {type(exc).__name__}>"
    return text[:nbytes_max].encode(errors="replace")[:nbytes_max].decode(errors="ignore")


def decode_error(data: Buffer) -> HuteroxError:
    """The exception that an ERROR's meta stands for. Raises InvalidInput where the meta is malformed."""
    meta = decode_error_meta(data)
    return from_wire(meta.code, meta.message, meta.retryable, meta.details)
