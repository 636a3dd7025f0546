"""Ids of containers and services: u64, the *mark* of the switchboard's start above, a running number below.

A mark is drawn at random at every start. So ids never repeat, whatever becomes of the store: an old handle means
nothing to a switchboard that begins anew, and never another service. People see ids as text, e.g. `c5f0kq2m.17`: the
mark in 32 digits, and the number.
"""

import re
from typing import Final

from huterox_wire.errors import InvalidInput

MARK_MAX: Final = 2**31 - 1
"""So that ids fit into a signed 64-bit number."""

NUMBER_BITS: Final = 32
_NUMBER_MAX: Final = 2**NUMBER_BITS - 1
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # i, l, o and u are too easily taken for others
_TEXT: Final = re.compile(rf"([{_DIGITS}]{{1,7}})\.([0-9]{{1,10}})")
_SAID_MAX: Final = 40


def text_of(prefix: str, number: int) -> str:
    """The text form of an id."""
    mark, digits = number >> NUMBER_BITS, ""
    while mark or not digits:
        mark, digit = divmod(mark, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f"{prefix}{digits}.{number & _NUMBER_MAX}"


def id_of(prefix: str, text: str) -> int:
    """The id behind its text form. Raises InvalidInput where it is none."""
    found = _TEXT.fullmatch(text, len(prefix)) if text.startswith(prefix) else None
    if found is not None:
        mark = 0
        for digit in found[1]:
            mark = mark * len(_DIGITS) + _DIGITS.index(digit)
        number = int(found[2])
        if mark <= MARK_MAX and number <= _NUMBER_MAX:
            return mark << NUMBER_BITS | number
    said = text if len(text) <= _SAID_MAX else f"{text[:_SAID_MAX]}…"
    raise InvalidInput(f"{said!r} is not an id such as {prefix}1.7")
