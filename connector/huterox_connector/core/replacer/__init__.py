"""Replacement policies: one small file each behind one interface, chosen by name."""

from collections.abc import Callable
from typing import Final

from huterox_connector.core.replacer.base import Page, Replacer
from huterox_connector.core.replacer.clock import Clock
from huterox_connector.core.replacer.fifo import Fifo
from huterox_connector.core.replacer.gdsf import Gdsf
from huterox_connector.core.replacer.lfu import Lfu
from huterox_connector.core.replacer.lru import Lru
from huterox_connector.core.replacer.s3fifo import S3Fifo
from huterox_connector.core.replacer.sieve import Sieve

POLICIES: Final[dict[str, Callable[[], Replacer]]] = {
    "fifo": Fifo,
    "lru": Lru,
    "lfu": Lfu,
    "clock": Clock,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "gdsf": Gdsf,
}

__all__ = ["POLICIES", "Page", "Replacer"]
