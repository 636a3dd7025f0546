"""What the zygote does once it has imported everything: fork on order, reap, report."""

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from huterox_kernel.worker import control, process
from huterox_kernel.worker.control import (
    Decoder,
    Ended,
    Forked,
    ForkFailed,
    ForkOrder,
    ZygoteReady,
    close_all,
)
from huterox_kernel.worker.imports import fingerprint


class Orders:
    """Serves the kernel's orders until it closes the socket."""

    def __init__(self, sock: socket.socket, poller: select.poll) -> None:
        self._sock = sock
        self._poller = poller
        self._decode = Decoder(control.ToZygote)
        self._workers: dict[int, tuple[int, int]] = {}  # pidfd -> container, pid

    def serve(
        self, modules: list[str], skipped: dict[str, str], took_s: dict[str, float]
    ) -> Callable[[], NoReturn] | None:
        """Returns None when the kernel has closed; in a forked child, what the child is to do.

        The child leaves the zygote's frames before it becomes a worker, so that none of their objects stay with it.
        """
        self._poller.register(self._sock.fileno(), select.POLLIN)
        control.send(self._sock, ZygoteReady(modules, skipped, took_s, fingerprint()))
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor in self._workers:
                    self._reap(descriptor)
                    continue
                packet = control.receive(self._sock, self._decode)
                if packet is None:
                    return None
                if (worker := self._obey(*packet)) is not None:
                    return worker

    def _obey(self, order: ForkOrder, descriptors: list[int]) -> Callable[[], NoReturn] | None:
        if len(descriptors) != 2:
            close_all(descriptors)
            control.send(self._sock, ForkFailed(order.container, f"{len(descriptors)} descriptors came, not 2"))
            return None
        sys.stdout.flush()
        sys.stderr.flush()
        zygote_pid = os.getpid()
        taken_s = time.monotonic()
        try:
            pid = os.fork()
        except OSError as exc:
            close_all(descriptors)
            control.send(self._sock, ForkFailed(order.container, f"cannot fork: {exc.strerror}"))
            return None
        if pid == 0:
            return self._child(order, descriptors, zygote_pid, taken_s)
        close_all(descriptors)
        self._watch(order.container, pid)
        return None

    def _child(
        self, order: ForkOrder, descriptors: list[int], zygote_pid: int, taken_s: float
    ) -> Callable[[], NoReturn]:
        self._sock.detach()  # or its finalizer would close a number that is somebody else's by then
        log, worker_control = descriptors
        return lambda: process.become_worker(order, worker_control, log, zygote_pid, taken_s)

    def _watch(self, container: int, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = (container, pid)
        self._poller.register(pidfd, select.POLLIN)
        control.send(self._sock, Forked(container, pid), [pidfd])

    def _reap(self, pidfd: int) -> None:
        container, pid = self._workers.pop(pidfd)
        self._poller.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        control.send(self._sock, Ended(container, status))
