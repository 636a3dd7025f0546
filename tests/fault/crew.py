"""Caller processes as a test sees them: started, asked, killed."""

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fault.site import Site

ROOT = Path(__file__).parents[2]
ANSWER_S = 60.0
EVERYTHING = ["small", "window", "large", "empty", "keep", "plain", "stream", "cancel", "fail"]


class Worker:
    """A Python module of the tests, run as a process that answers questions by JSON lines."""

    def __init__(self, where: Site, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, where.endpoint, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=where.environment,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self._buffer = b""
        self.hear()

    def hear(self, within_s: float = ANSWER_S) -> dict[str, Any]:
        """The next line that it says; it must come in time."""
        assert self._process.stdout is not None
        until_s = time.monotonic() + within_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(until_s - time.monotonic(), 0.0))
            assert ready, f"process {self.pid} has said nothing for {within_s:.0f} s"
            data = self._process.stdout.read1(1 << 20)
            assert data, f"process {self.pid} has ended, with exit status {self._process.wait()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, question: str, within_s: float = ANSWER_S) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(question.encode() + b"\n")
        self._process.stdin.flush()
        return self.hear(within_s)

    def kill(self) -> float:
        """`kill -9`; returns when."""
        killed_s = time.monotonic()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)
        self._close()
        return killed_s

    def stop(self) -> dict[str, Any]:
        """Its last report; it ends by itself."""
        last = self.ask("stop")
        assert self._process.wait(timeout=20) == 0
        self._close()
        return last

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None


class Crew:
    """The callers of one test; none outlives it."""

    def __init__(self, where: Site) -> None:
        self._where = where
        self._seed = 0
        self.workers: list[Worker] = []

    def caller(self, *services: str, ways: list[str] | None = None, tenant: str = "", go: bool = True) -> Worker:
        self._seed += 1
        options = {"services": services, "seed": self._seed, "ways": ways or EVERYTHING, "tenant": tenant}
        worker = self.add("tests.fault.caller", json.dumps(options))
        if go:
            worker.ask("go")
        return worker

    def add(self, module: str, *arguments: str) -> Worker:
        self.workers.append(Worker(self._where, module, *arguments))
        return self.workers[-1]

    def close(self) -> None:
        for worker in self.workers:
            if not worker.is_over:
                worker.kill()


@contextmanager
def crew(where: Site) -> Iterator[Crew]:
    made = Crew(where)
    try:
        yield made
    finally:
        made.close()
