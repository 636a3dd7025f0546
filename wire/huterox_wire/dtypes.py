"""Names and sizes of the element types a tensor may have. Everything is little-endian.

`bytes` is a tensor of one dimension that stands for one byte string. The two `longdouble` families have the format of
the sender's C compiler; a receiver that does not have that format answers `InvalidInput`.
"""

from typing import Final

ITEM_NBYTES: Final[dict[str, int]] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "longdouble-x87": 16,
    "longdouble-quad": 16,
    "complex64": 8,
    "complex128": 16,
    "clongdouble-x87": 32,
    "clongdouble-quad": 32,
    "bytes": 1,
}
