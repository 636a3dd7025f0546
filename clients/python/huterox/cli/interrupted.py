"""How a command ends that was interrupted."""

from typing import Final

INTERRUPTED: Final = 130
"""The exit status, as shells have it: 128 and the number of SIGINT."""


def is_of_interrupt(exc: BaseException | None) -> bool:
    """Whether it is an interrupt, or an error of closing what an interrupt has left half open."""
    while exc is not None and not isinstance(exc, KeyboardInterrupt):
        exc = exc.__cause__ or exc.__context__
    return exc is not None
