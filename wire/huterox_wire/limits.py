"""Every bound of the wire, with its unit. A sender that breaks one is answered with `TooLarge` or `InvalidInput`."""

from typing import Final

PACKED_NBYTES_MAX: Final = 64 * 1024
"""Up to this size a sender packs header, meta and tensors into one frame."""

MESSAGE_NBYTES_MAX: Final = 512 * 1024 * 1024
"""Header, meta and all tensors of one message together, as they lie in the packed form. The same by every way."""

META_NBYTES_MAX: Final = 1024 * 1024
"""The msgpack map of one message."""

TENSORS_MAX: Final = 64
"""Tensors in one message."""

RANK_MAX: Final = 8
"""Dimensions of one tensor."""

NAME_NBYTES_MAX: Final = 128
"""Names of models, services, tenants, methods, tensors and parameters, counted in Unicode code points."""

DEPTH_MAX: Final = 32
"""Nesting of plain values (lists and maps) in a message; the map `params`, `args` or `details` counts as the first."""

TRACE_NBYTES_MAX: Final = 64
"""A caller's trace id, counted in Unicode code points."""

BUDGET_US_MAX: Final = 24 * 3600 * 1_000_000
"""The longest time a call may ask for: one day."""

TENSOR_ALIGNMENT: Final = 64
"""In the packed form every tensor begins at a multiple of this, counted from the first byte of the header."""

BLOB_NBYTES_MIN: Final = 256
"""A `bytes` value of at least this size travels as a tensor of dtype `bytes`, not inside the meta map."""
