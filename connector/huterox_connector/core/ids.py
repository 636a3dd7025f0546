"""Ids of containers and services: u64, the epoch that made them above, a running number below.

They are unique over restarts of the switchboard without asking the store for each. People see them as text: `c3.17` is
the seventeenth container of the third epoch.
"""

from itertools import count

from huterox_wire.errors import InvalidInput
from huterox_wire.route import pack_route

ContainerId = int
ServiceId = int

_NUMBER_BITS = 32
_NUMBER_MAX = 2**_NUMBER_BITS - 1
_ROUTE_BITS = 40  # calls of one epoch before numbers of routes would meet those of the next: years at full speed


class IdSource:
    """Gives out ids of one epoch."""

    def __init__(self, epoch: int) -> None:
        self._base = epoch << _NUMBER_BITS
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._base | self._number


class RouteSource:
    """Gives out the routes of one epoch: no two calls or questions have the same."""

    def __init__(self, epoch: int) -> None:
        self._numbers = count((epoch << _ROUTE_BITS) % 2**64)

    def next(self, container_id: int, caller: bytes) -> bytes:
        """Hot path. A route to a container, with a number that no other has."""
        return pack_route(container_id, next(self._numbers), caller)


def text_of(prefix: str, number: int) -> str:
    """The text form of an id, e.g. `c3.17`."""
    return f"{prefix}{number >> _NUMBER_BITS}.{number & _NUMBER_MAX}"


def id_of(prefix: str, text: str) -> int:
    """The id behind its text form. Raises InvalidInput where it is none."""
    epoch, dot, number = text.removeprefix(prefix).partition(".")
    if not (text.startswith(prefix) and dot and epoch.isdecimal() and number.isdecimal()):
        raise InvalidInput(f"{text!r} is not an id such as {prefix}1.7")
    return int(epoch) << _NUMBER_BITS | int(number)
