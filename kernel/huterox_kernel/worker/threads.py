"""How many threads libraries start in a worker. Most are told by variables of the environment, when a zygote starts."""

import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

_ONNXRUNTIME: Final = "onnxruntime"
_LIMITED: Final = "_huterox_limited"


def limit_threads(torch_threads: int, cpus: int) -> None:
    """Limit libraries that are imported already. Again after each import: it costs nothing.

    Args:
        torch_threads: inside one operation of torch's.
        cpus: that this process may use.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(torch_threads)
    if cpus >= os.sysconf("SC_NPROCESSORS_ONLN"):  # what libraries count is true
        return
    onnxruntime = sys.modules.get(_ONNXRUNTIME)
    if onnxruntime is not None:
        _limit_sessions(onnxruntime, cpus)
    elif not any(isinstance(finder, _LimitsLater) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LimitsLater(cpus))


def _limit_sessions(onnxruntime: ModuleType, cpus: int) -> None:
    """onnxruntime counts the machine's cores, whatever a process may use, and no variable tells it otherwise.

    So sessions whose options do not say how many threads they have are given the number that is right.
    """
    session = getattr(onnxruntime, "InferenceSession", None)
    if session is None or hasattr(session, _LIMITED):
        return
    make = session.__init__

    @functools.wraps(make)
    def make_limited(self: Any, model: Any, sess_options: Any = None, *args: Any, **values: Any) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        for name in ("intra_op_num_threads", "inter_op_num_threads"):
            if not getattr(options, name):
                setattr(options, name, cpus)
        make(self, model, options, *args, **values)

    session.__init__ = make_limited
    setattr(session, _LIMITED, True)


class _LimitsLater:
    """Sees onnxruntime come, whoever imports it."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        if name != _ONNXRUNTIME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_limit(module: ModuleType) -> None:
                run(module)
                _limit_sessions(module, self._cpus)

            spec.loader.exec_module = run_and_limit  # type: ignore[method-assign]
        return spec
