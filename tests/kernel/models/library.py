"""Models that import libraries, and tell who has imported them."""

import importlib
import os
import sys
from typing import Any


class Uses:
    """Imports modules when it is made, and uses those that can be. Each says in which process it was imported."""

    def __init__(self, modules: list[str], environment: dict[str, str] | None = None) -> None:
        os.environ.update(environment or {})
        self._modules = [importlib.import_module(name) for name in modules]
        for module in self._modules:
            getattr(module, "use", lambda: None)()

    def predict(self) -> dict[str, Any]:
        """For each module: was it there already when this process was forked?"""
        return {module.__name__: os.getpid() != module.IMPORTED_BY for module in self._modules}

    def whose(self) -> list[str]:
        return [str(getattr(module, "WHOSE", "")) for module in self._modules]

    def draw(self) -> Any:
        return self._modules[0].draw()

    def has(self, module: str) -> bool:
        return module in sys.modules
