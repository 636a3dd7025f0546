"""Threads of libraries that count the machine's processors, whatever a process may use."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from huterox_kernel.worker.threads import limit_threads

FAKE = """
class SessionOptions:
    intra_op_num_threads = 0
    inter_op_num_threads = 0

class InferenceSession:
    def __init__(self, path_or_bytes, sess_options=None, providers=None):
        self.options, self.rest = sess_options, (path_or_bytes, providers)
"""


@pytest.fixture
def onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A double, to be imported."""
    (tmp_path / "onnxruntime.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(os, "sysconf", lambda name: 64)
    yield
    sys.modules.pop("onnxruntime", None)


def threads(session: Any) -> tuple[int, int]:
    return session.options.intra_op_num_threads, session.options.inter_op_num_threads


@pytest.mark.usefixtures("onnxruntime")
@pytest.mark.parametrize("is_late", [False, True])
def test_sessions_that_do_not_say_have_as_many_threads_as_may_run(is_late: bool) -> None:
    if is_late:
        limit_threads(1, 3)
    import onnxruntime

    limit_threads(1, 3)
    limit_threads(1, 3)
    assert threads(onnxruntime.InferenceSession("x")) == (3, 3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 5
    session = onnxruntime.InferenceSession("x", options, providers=["p"])
    assert (threads(session), session.rest) == ((5, 3), ("x", ["p"]))
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == limit_threads.__module__]


@pytest.mark.usefixtures("onnxruntime")
def test_where_all_processors_may_be_used_nothing_is_touched() -> None:
    import onnxruntime

    limit_threads(1, 64)
    assert onnxruntime.InferenceSession("x").options is None
