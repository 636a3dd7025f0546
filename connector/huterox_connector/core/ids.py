"""Ids of containers and services: u64, the epoch that made them above, a running number below.

They are unique over restarts of the switchboard without asking the store for each. People see them as text: `c3.17` is
the seventeenth container of the third epoch.
"""

from huterox_wire.errors import InvalidInput

ContainerId = int
ServiceId = int

_NUMBER_BITS = 32
_NUMBER_MAX = 2**_NUMBER_BITS - 1


class IdSource:
    """Gives out ids of one epoch."""

    def __init__(self, epoch: int) -> None:
        self._base = epoch << _NUMBER_BITS
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._base | self._number


def text_of(prefix: str, number: int) -> str:
    """The text form of an id, e.g. `c3.17`."""
    return f"{prefix}{number >> _NUMBER_BITS}.{number & _NUMBER_MAX}"


def id_of(prefix: str, text: str) -> int:
    """The id behind its text form. Raises InvalidInput where it is none."""
    epoch, dot, number = text.removeprefix(prefix).partition(".")
    if not (text.startswith(prefix) and dot and epoch.isdecimal() and number.isdecimal()):
        raise InvalidInput(f"{text!r} is not an id such as {prefix}1.7")
    return int(epoch) << _NUMBER_BITS | int(number)
