"""The switchboard daemon: puts store, core and sockets together, and runs them until a signal."""

import asyncio
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
import zmq

from huterox_connector.config import ConnectorConfig
from huterox_connector.core import desired, measured
from huterox_connector.core.effects import Write
from huterox_connector.core.events import Event
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import EPOCH_KEY, STORE_KEY, Term
from huterox_connector.shell.paths import check_free
from huterox_connector.shell.store.base import Store, StoreConflict
from huterox_connector.shell.store.sqlite import SqliteStore, lock_store
from huterox_connector.shell.switch import Switch
from huterox_connector.shell.writer import Writer
from huterox_wire.ids import MARK_MAX, NUMBER_BITS

_log = logging.getLogger(__name__)

_WRITER_CLOSE_S = 10.0
_CONTEXT_CLOSE_S = 2.0  # beside the time in which what was sent goes out


def run(config: ConnectorConfig, version: str) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StoreError: the store cannot be used.
        zmq.ZMQError, HuteroxError: an endpoint cannot be bound.
    """
    store = _open_store(config)
    try:
        board = _restore(store, config, version)
        with (
            _zmq_context(config.linger_ms / 1000) as context,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            switch = Switch(context, config, board)
            runner.run(_serve(config, board, switch, store))
    except BaseException:
        store.close()
        raise


def _open_store(config: ConnectorConfig) -> SqliteStore:
    """Not before it is sure that no other switchboard runs here, whatever has become of its files."""
    lock = lock_store(Path(config.store))
    try:
        check_free(config.front)
        check_free(config.back)
    except BaseException:
        os.close(lock)
        raise
    return SqliteStore(Path(config.store), config.core.journal_max, lock)


@contextmanager
def _zmq_context(linger_s: float) -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Ended in bounded time: libzmq 4.3.5 can wait for ever for a ROUTER whose peers have died a moment ago with much
    unread. What it still has goes with this process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        end = threading.Thread(target=context.destroy, kwargs={"linger": 0}, name="huterox-end", daemon=True)
        end.start()
        end.join(linger_s + _CONTEXT_CLOSE_S)
        if end.is_alive():
            _log.warning("ZeroMQ does not end in time; the process ends without it")


def _restore(store: Store, config: ConnectorConfig, version: str) -> Switchboard:
    """Read what is desired, under a new epoch that no older switchboard on this store can have."""
    stored = desired.decode(_scan(store, desired.MODEL_PREFIX, desired.SERVICE_PREFIX, desired.NODE_PREFIX))
    seen, unreadable = measured.decode(
        _scan(store, measured.FOOTPRINT_PREFIX, measured.USAGE_PREFIX, measured.PAST_PREFIX)
    )
    if unreadable:
        _log.warning("%d measurements in the store cannot be read, e.g. %s", len(unreadable), unreadable[0])
    term = _next_term(store, {service.id >> NUMBER_BITS for service in stored.services})
    now_s = time.monotonic()
    board = Switchboard(config.core, term, time.time() - now_s, now_s, version)
    board.restore(stored, seen, store.last_events(config.core.journal_max))
    _log.info(
        "epoch %d of store %s: %d models, %d services",
        term.epoch,
        term.store,
        len(stored.models),
        len(stored.services),
    )
    return board


def _scan(store: Store, *prefixes: str) -> dict[str, bytes]:
    return {key: value for prefix in prefixes for key, value in store.scan(prefix).items()}


def _next_term(store: Store, marks: set[int]) -> Term:
    """A new epoch, and a mark that is not among `marks`; a store that has none yet gets its name."""
    mark = 1 + secrets.randbelow(MARK_MAX)
    while mark in marks:
        mark = 1 + secrets.randbelow(MARK_MAX)
    while True:
        old, known = store.get(EPOCH_KEY), store.get(STORE_KEY)
        epoch, name = int(old or b"0") + 1, known or secrets.token_hex(8).encode()
        writes = [Write(EPOCH_KEY, str(epoch).encode()), Write(STORE_KEY, name)]
        try:
            store.transact(writes, compare={EPOCH_KEY: old, STORE_KEY: known})
        except StoreConflict:
            continue  # another one was quicker; it holds the older epoch then
        return Term(epoch, mark, name.decode())


async def _serve(config: ConnectorConfig, board: Switchboard, switch: Switch, store: Store) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)

    def report(event: Event) -> None:
        loop.call_soon_threadsafe(switch.on, event)

    writer = Writer(store, report)
    switch.start(loop, writer)
    _log.info("listening for callers at %s, for kernels at %s", config.front, config.back)
    await stop.wait()
    _log.info("stopping: %d calls in flight", len(board.calls))
    board.stopping = True
    drained_by_s = time.monotonic() + config.drain_s
    while len(board.calls) and time.monotonic() < drained_by_s:
        await asyncio.sleep(config.tick_s)
    switch.perform(board.keep_usage())
    switch.close()
    writer.close(_WRITER_CLOSE_S)
