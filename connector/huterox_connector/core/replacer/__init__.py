"""Replacement policies: one small file each behind one interface, chosen by name."""

from collections.abc import Callable
from typing import Final

from huterox_connector.core.replacer.base import Replacer
from huterox_connector.core.replacer.clock import Clock
from huterox_connector.core.replacer.lru import Lru

POLICIES: Final[dict[str, Callable[[], Replacer]]] = {"lru": Lru, "clock": Clock}

__all__ = ["POLICIES", "Replacer"]
