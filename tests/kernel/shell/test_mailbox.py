"""Packets for a worker that does not read them now."""

import asyncio
import errno
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from huterox_kernel.shell.mailbox import Mailbox
from huterox_kernel.worker import control
from huterox_kernel.worker.control import AddLane, Close, Decoder, DropLane

decode = Decoder(control.ToWorker)


def open_descriptors() -> int:
    gc.collect()  # what other tests have left
    return len(list(Path("/proc/self/fd").iterdir()))


def run(test: Callable[[Mailbox, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            mailbox = Mailbox(asyncio.get_running_loop(), ours)
            try:
                await test(mailbox, theirs)
            finally:
                mailbox.close()

    asyncio.run(main())


async def until(done: Callable[[], object]) -> None:
    until_s = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < until_s, "it did not come to pass"
        await asyncio.sleep(0.001)


async def receive(theirs: socket.socket, count: int) -> list[control.ToWorker]:
    got: list[control.ToWorker] = []
    while len(got) < count:
        try:
            received = control.receive(theirs, decode)
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        assert received is not None
        message, descriptors = received
        assert len(descriptors) == (3 if isinstance(message, AddLane) else 0)
        control.close_all(descriptors)
        got.append(message)
    return got


def test_packets_that_find_no_room_follow_in_order_with_their_descriptors() -> None:
    messages = [AddLane(n, n, "acme/vad") if n % 2 else DropLane(n) for n in range(2000)] + [Close()]

    async def test(mailbox: Mailbox, theirs: socket.socket) -> None:
        before = open_descriptors()
        reading, writing = os.pipe()
        for message in messages:
            mailbox.post(message, [reading, reading, reading] if isinstance(message, AddLane) else ())
        os.close(reading)
        os.close(writing)
        assert await receive(theirs, len(messages)) == messages
        await until(lambda: open_descriptors() == before)

    run(test)


def test_what_waits_is_given_up_with_the_mailbox() -> None:
    async def test(mailbox: Mailbox, theirs: socket.socket) -> None:
        before = open_descriptors()
        for number in range(300):
            mailbox.post(AddLane(number, 0, "x"), [0, 1, 2])
        assert open_descriptors() > before
        mailbox.close()
        mailbox.post(Close())
        assert open_descriptors() == before

    run(test)


def test_a_worker_that_has_gone_is_told_nothing() -> None:
    async def test(mailbox: Mailbox, theirs: socket.socket) -> None:
        for number in range(300):
            mailbox.post(AddLane(number, 0, "x"), [0, 1, 2])
        before = open_descriptors()
        theirs.close()
        await until(lambda: open_descriptors() < before - 1)  # theirs, and what waited
        mailbox.post(Close())

    run(test)


def test_a_system_without_room_for_descriptors_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = control.send
    left = [3]

    def send(*arguments: object) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ETOOMANYREFS, "too many references")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(control, "send", send)

    async def test(mailbox: Mailbox, theirs: socket.socket) -> None:
        mailbox.post(AddLane(1, 0, "x"), [0, 1, 2])
        mailbox.post(DropLane(1))
        assert await receive(theirs, 2) == [AddLane(1, 0, "x"), DropLane(1)]

    run(test)
