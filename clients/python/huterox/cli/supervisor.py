"""Runs the two daemons of `huterox up`: starts them, starts them again, ends them.

The daemons are children in process groups of their own, so that a Ctrl-C in the terminal reaches this process alone and
the order of the end is ours: the kernel first, so that its containers end well, then the switchboard. Should this
process be killed, the daemons are killed by the operating system (PR_SET_PDEATHSIG, which they ask for themselves).
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from huterox.cli.render import one_line
from huterox.cli.restarts import Restarts
from huterox.cli.updir import Settings, UpDir
from huterox.cli.watch import Watch
from huterox_shm.segment import punch_pages
from huterox_wire.errors import HuteroxError, Unavailable

_READY_TIMEOUT_S: Final = 180.0
_PROBE_PERIOD_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 0.5
_PROGRESS_PERIOD_S: Final = 5.0
_LOG_NBYTES_MAX: Final = 16 * 1024 * 1024
_BLOCK_NBYTES: Final = 1024 * 1024
_LOOK_PERIOD_S: Final = 5.0  # at what runs, and at the logs
_RETRY_S: Final = 5.0
_TAIL_NBYTES: Final = 4096
_TAIL_LINES: Final = 8
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Tell = Callable[[str], None]


class Daemon:
    """One child: how it is started, what is known of its deaths."""

    def __init__(self, name: str, title: str, directory: UpDir, stop_timeout_s: float) -> None:
        self.name = name
        self.title = title
        self.stop_timeout_s = stop_timeout_s
        self.log = directory.log(name)
        self.restarts = Restarts()
        self.start_at_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-P", "-m", f"huterox_{name}", "--config", str(directory.config(name))]
        self._directory = directory.state

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                process_group=0,
            )

    def shorten_log(self) -> None:
        """Keep the end of a log that has become too long. It goes on in the same file, and nothing gets lost."""
        with suppress(OSError), self.log.open("r+b", buffering=0) as log:
            status = os.fstat(log.fileno())
            if status.st_blocks * 512 <= _LOG_NBYTES_MAX:
                return
            front_nbytes = (status.st_size - _LOG_NBYTES_MAX // 2) // _BLOCK_NBYTES * _BLOCK_NBYTES
            try:
                punch_pages(log.fileno(), 0, front_nbytes)
            except OSError:  # a file system that knows no holes
                log.truncate(0)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def how_it_ended(self) -> str:
        status = self.process.returncode if self.process is not None else None
        if status is None:
            return "not started"
        return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"

    def last_words(self) -> list[str]:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_NBYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-_TAIL_LINES:]


class Supervisor:
    """From the first start to the last end."""

    def __init__(self, directory: UpDir, settings: Settings, tell: Tell) -> None:
        self._directory = directory
        self._settings = settings
        self._endpoint = directory.endpoint
        self._tell = tell
        self._connector = Daemon("connector", "the switchboard", directory, stop_timeout_s=10.0)
        self._kernel = Daemon("kernel", "the kernel", directory, stop_timeout_s=15.0)
        self._daemons = (self._connector, self._kernel)
        self._ready = False
        self._watch, self._look_at_s = Watch(), 0.0
        self._stops = 0  # signals that ask for the end
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the daemons running until a signal asks for the end.

        Raises:
            Unavailable: a daemon cannot be kept running, or does not become ready.
        """
        for number in _STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, self._on_signal)
        try:
            self._run(on_ready)
        finally:
            self._stop()
            for number in _STOP_SIGNALS:  # the end has come already
                signal.signal(number, signal.SIG_IGN)
            os.close(self._bell)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        with suppress(OSError):
            os.eventfd_write(self._bell, 1)

    def _run(self, on_ready: Callable[[], None]) -> None:
        self._tell("starting the switchboard")
        self._tell("starting the kernel: it imports what models share (torch, if it is installed), which takes seconds")
        started_s = told_s = time.monotonic()
        while not self._stops:
            now_s = time.monotonic()
            for daemon in self._daemons:
                self._keep(daemon, now_s)
                daemon.shorten_log()
            if self._ready:
                self._watch_over(now_s)
                self._sleep(self._until_next_start(now_s))
                continue
            if not self._trouble():
                self._ready = True
                on_ready()
            elif now_s - started_s > _READY_TIMEOUT_S:
                raise self._failure(self._kernel, f"is not ready after {_READY_TIMEOUT_S:.0f} s")
            elif now_s - told_s > _PROGRESS_PERIOD_S:
                told_s = now_s
                self._tell(f"waiting for the kernel ({now_s - started_s:.0f} s)")
            if not self._ready:
                self._sleep(_PROBE_PERIOD_S)

    def _keep(self, daemon: Daemon, now_s: float) -> None:
        """Start what does not run, when its time has come."""
        if daemon.alive:
            return
        if daemon.process is not None:
            delay_s = daemon.restarts.died(now_s, was_ready=self._ready)
            if delay_s is None:
                raise self._failure(daemon, f"keeps ending ({daemon.how_it_ended()})")
            self._tell(f"{daemon.title} has ended ({daemon.how_it_ended()}); it is started again in {delay_s:.1f} s")
            daemon.process, daemon.start_at_s = None, now_s + delay_s
        if daemon.start_at_s <= now_s:
            try:
                self._directory.write_configs(self._settings)
                daemon.start()
            except OSError as exc:  # a full disk, for one: those that run go on
                self._tell(f"{daemon.title} cannot be started now: {exc}")
                daemon.start_at_s = now_s + _RETRY_S

    def _failure(self, daemon: Daemon, what: str) -> Unavailable:
        *before, last = daemon.last_words() or ["(nothing)"]
        for line in before:
            self._tell(f"{daemon.name}.log: {one_line(line)}")
        return Unavailable(f"{daemon.title} {what}; the last line of {daemon.log}: {one_line(last)}", retryable=False)

    def _watch_over(self, now_s: float) -> None:
        """Tell where calls cannot be made any more, though the daemons run."""
        if now_s < self._look_at_s or not all(daemon.alive for daemon in self._daemons):
            return
        self._look_at_s = now_s + _LOOK_PERIOD_S
        if text := self._watch.look(self._trouble(), now_s):
            self._tell(text)

    def _trouble(self) -> str:
        """Why calls cannot be made; empty: the switchboard answers and knows a node."""
        from huterox.client import Client
        from huterox.endpoint import check_listening

        try:
            check_listening(self._endpoint)
            with Client(self._endpoint, timeout=_PROBE_TIMEOUT_S) as client:
                return "" if client.status()["nodes_ready"] else "the switchboard knows no kernel that takes loads"
        except HuteroxError as error:
            return f"the switchboard does not answer ({one_line(error.message)})"

    def _until_next_start(self, now_s: float) -> float:
        waits_s = [daemon.start_at_s - now_s for daemon in self._daemons if daemon.process is None]
        return max(0.0, min([*waits_s, _LOOK_PERIOD_S]))

    def _sleep(self, wait_s: float) -> None:
        """Until a signal comes, a daemon ends, or the time is over."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        pidfds = []
        try:
            for daemon in self._daemons:
                if daemon.alive and daemon.process is not None:
                    pidfds.append(os.pidfd_open(daemon.process.pid))
                    poller.register(pidfds[-1], select.POLLIN)
            poller.poll(wait_s * 1e3)
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _stop(self) -> None:
        """End the kernel, then the switchboard; a second signal, or no patience left, kills."""
        asked = self._stops
        if any(daemon.alive for daemon in self._daemons):
            self._tell("stopping: containers end first")
        for daemon in reversed(self._daemons):
            if daemon.process is None or not daemon.alive:
                continue
            daemon.process.terminate()
            deadline_s = time.monotonic() + daemon.stop_timeout_s
            while daemon.alive and time.monotonic() < deadline_s and self._stops <= max(1, asked):
                self._sleep(deadline_s - time.monotonic())
            if daemon.alive:
                self._tell(f"{daemon.title} does not end by itself and is killed")
                daemon.process.kill()
            daemon.process.wait()
