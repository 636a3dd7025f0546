"""What `submit` returns, and what `stream` returns, whichever way the call travels."""

import abc
from collections.abc import Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

Result = dict[str, Any]


class CallFuture(Future[Result]):
    """The result of one call, some time. A thread that waits for it takes answers in itself, for all threads."""


class Stream(Iterator[Result]):
    """The parts of one streamed reply, in order. For one thread.

    Leave a `with` block, or call `close`, to stop the model early; a stream that is dropped is stopped too, a little
    later.
    """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the model between two parts, if it still runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
