"""Where new ids and routes come from; see `huterox_wire.ids` for what ids are made of."""

from typing import Final

from huterox_wire.ids import NUMBER_BITS
from huterox_wire.route import pack_route

ContainerId = int
ServiceId = int

_ROUTE_BITS: Final = 32
"""Below the mark. After so many the numbers of the next mark follow, which hardly any start has had."""


class IdSource:
    """Gives out the ids of one start of the switchboard, which its `mark` stands for."""

    def __init__(self, mark: int) -> None:
        self._base = mark << NUMBER_BITS
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._base | self._number


class RouteSource:
    """Gives out the routes of one start: no two calls or questions have the same."""

    def __init__(self, mark: int) -> None:
        self.upcoming = mark << _ROUTE_BITS  # the number of the next route

    def next(self, container_id: int, caller: bytes) -> bytes:
        """Hot path. A route to a container, with a number that no other has."""
        number = self.upcoming
        self.upcoming = number + 1
        return pack_route(container_id, number, caller)
