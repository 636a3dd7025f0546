"""Keys in their order, so that a list can go on where its last page ended without sorting everything anew."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", int, str)


class SortedKeys(Generic[Key]):
    """Each key once. Ids grow, so most come at the end, which is quickest; others cost a short copy."""

    def __init__(self) -> None:
        self._keys: list[Key] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Key) -> None:
        """Enter a key that is not here."""
        if not self._keys or key > self._keys[-1]:
            self._keys.append(key)
        else:
            insort(self._keys, key)

    def remove(self, key: Key) -> None:
        """Take out a key that is here."""
        del self._keys[bisect_left(self._keys, key)]

    def after(self, key: Key) -> Iterator[Key]:
        """Those behind `key`, which need not be here. Nothing may be added or removed meanwhile."""
        for at in range(bisect_right(self._keys, key), len(self._keys)):
            yield self._keys[at]
