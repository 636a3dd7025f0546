"""What zygotes have learned, in a file of the kernel's, so that a restart is warm at once.

A file that cannot be read is ignored, and written anew.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from huterox_kernel.core.preloads import LEARNED_MAX, Learned, is_name

_log: Final = logging.getLogger("huterox.kernel")
FORMAT: Final = 1


class _File(Struct):
    format: int
    interpreters: dict[str, Learned]


def load_preloads(path: Path) -> dict[str, Learned]:
    """What was kept, by interpreter; nothing where there is no such file, or none that makes sense."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        _log.warning("%s is ignored: %s", path, exc)
        return {}
    if file.format != FORMAT:
        _log.warning("%s is ignored: it has format %d, not %d", path, file.format, FORMAT)
        return {}
    for learned in file.interpreters.values():
        learned.modules = [name for name in learned.modules if is_name(name)][:LEARNED_MAX]
    return file.interpreters


def save_preloads(path: Path, known: dict[str, Learned]) -> None:
    """Keep it. Where that fails, the log tells, and the next start is a colder one."""
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_bytes(msgspec.json.format(msgspec.json.encode(_File(FORMAT, known)), indent=1))
        new.replace(path)
    except OSError as exc:
        _log.warning("%s cannot be written: %s", path, exc.strerror or exc)
