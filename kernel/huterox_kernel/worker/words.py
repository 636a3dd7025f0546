"""What the worker itself has to say, into the container's log.

Not by the standard streams: they are the model's, which may have closed or replaced them, or the descriptors below.
"""

import os
import stat
import sys
from typing import Final

SAID_NBYTES_MAX: Final = 800

_STANDARD_ERROR: Final = 2
_log = _STANDARD_ERROR


def say_to(descriptor: int) -> None:
    """Use this descriptor from now on; stays the giver's to keep open."""
    global _log
    _log = descriptor


def say(text: str) -> None:
    """Never raises."""
    try:
        os.write(_log, f"{text}\n".encode(errors="backslashreplace"))
    except OSError:  # closed, or full: there is nobody else to tell
        return


class Words:
    """What comes into the log from now on, whoever writes it: of libraries in C, and of what the model starts, too."""

    def __init__(self) -> None:
        self._begin = _log_nbytes()

    def said(self) -> str:
        """The end of it; empty where there is nothing, or the log cannot be read."""
        flush_streams()
        begin = max(self._begin, _log_nbytes() - SAID_NBYTES_MAX)
        try:
            with open(f"/proc/self/fd/{_log}", "rb") as file:  # noqa: PTH123 - the same file, opened to read
                file.seek(begin)
                return file.read(SAID_NBYTES_MAX).decode(errors="replace").strip()
        except OSError:
            return ""


def _log_nbytes() -> int:
    try:
        status = os.fstat(_log)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def flush_streams() -> None:
    """What the model has printed; it may have closed its streams, or put anything in their place. Never raises."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001
            continue
