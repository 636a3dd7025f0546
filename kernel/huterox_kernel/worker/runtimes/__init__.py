"""How models are loaded and called, one file for each runtime."""

from collections.abc import Callable
from typing import Final

from huterox_kernel.worker.runtimes import python, torchscript
from huterox_kernel.worker.runtimes.base import Announce, Model
from huterox_wire.nodes import ModelSpec

RUNTIMES: Final[dict[str, Callable[[ModelSpec, Announce, str], Model]]] = {
    "python": python.load,
    "torchscript": torchscript.load,
}
