"""A worker's standard output and error: what cannot be written, on a full disk for one, is lost, and nobody fails."""

import io
import sys
from typing import Any


class _Log(io.FileIO):
    """Takes everything."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def install() -> None:
    """Replace `sys.stdout` and `sys.stderr`: what they held of the zygote's is not written again."""
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def _stream(descriptor: int) -> io.TextIOWrapper:
    raw = _Log(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
