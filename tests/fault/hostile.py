"""A caller that means harm: `python -m tests.fault.hostile ENDPOINT SERVICE SEED`. Takes a lane, writes whatever it can
write wherever it can, and takes the next one when that is closed.

A number on stdin is an order for so many lanes; the answer tells what was written, and how the lanes have ended.
"""

import ctypes
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

import huterox
from huterox.core import Limits
from huterox.fetching import Fetched
from huterox.lane_call import LaneCall
from huterox.lane_core import LaneCore
from huterox_shm.errors import ShmError
from huterox_shm.lane import CALL, DEAD, DEFINES, INDIRECT, STREAM
from huterox_shm.layout import ENTRY, ENTRY_NBYTES, PAGE_NBYTES, STATE
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.meta import CallMeta, TensorSpec, encode_meta

STEPS_MAX = 12
SPAN_NBYTES = 1 << 20
X = np.arange(256, dtype=np.float32)
_PUNCH_HOLE = 1 | 2  # and keep the size
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Hostile:
    """One lane, and what is done to it."""

    def __init__(self, fetched: Fetched, luck: random.Random) -> None:
        self.luck = luck
        self.end = fetched.end
        self.core = LaneCore(self.end, Limits())
        self.memory = self.end.writable
        self.layout = self.end.layout
        self.calls = 0
        self.published = 0  # entries that were written by hand

    @property
    def is_closed(self) -> bool:
        return self.end.state == DEAD

    # --- what an honest caller does, so that there is something to spoil ----------------------------------------------

    def call(self, count: int = 4, x: Any = X) -> None:
        for _ in range(count):
            self.core.publish(LaneCall(), "predict", {"x": x}, 5.0, time.monotonic())
        self.core.flush()

    def listen(self, within_s: float = 0.002) -> None:
        self.end.wait(within_s)
        self.core.take()
        self.core.news.clear()

    # --- what no honest caller does -----------------------------------------------------------------------------------

    def write_header(self) -> None:
        """Words of the header: sizes, state, generation, what the container says it has begun."""
        for _ in range(self.luck.randrange(1, 40)):
            at = self.luck.randrange(PAGE_NBYTES // 8) * 8
            self.memory[at : at + 8] = self.luck.randbytes(8)
        self.ring(0)

    def write_state(self) -> None:
        self.call()
        self.end.header[STATE] = self.luck.choice([0, 1, 2, 3, 4, 1 << 63, self.luck.getrandbits(64)])
        self.ring(self.luck.choice([0, 1 << 32]))

    def write_rings(self) -> None:
        """Random bytes over both, with calls in them."""
        self.call()
        for ring in (self.layout.request_ring, self.layout.reply_ring):
            nbytes = self.layout.ring_entries * ENTRY_NBYTES
            self.memory[ring : ring + nbytes] = self.luck.randbytes(nbytes)
        self.ring(self.luck.choice([1, 3, 100, 2000]))

    def write_everywhere(self) -> None:
        """Random bytes over header, rings and the beginnings of both halves, whose pages may not be there yet."""
        self.call()
        for at in (0, self.layout.request_half, self.layout.reply_half):
            self.memory[at : at + SPAN_NBYTES // 4] = self.luck.randbytes(SPAN_NBYTES // 4)
        self.ring(1)

    def write_blocks_under_way(self) -> None:
        """Change inputs and answers while the model works on them."""
        self.call(8, np.ones(1 << 16, np.float32))
        for _ in range(50):
            half = self.luck.choice([self.layout.request_half, self.layout.reply_half])
            at = half + self.luck.randrange(4 * SPAN_NBYTES) // 64 * 64
            self.memory[at : at + 256] = self.luck.randbytes(256)
        self.listen()

    def ring(self, count: int | None = None) -> None:
        """Doorbells: any number, either of them, also read instead of written."""
        if count is None:
            count = self.luck.choice([0, 1, 7, 1 << 31, 1 << 32, (1 << 32) + 5, 1 << 63, (1 << 64) - 2])
        bells = [self.end._peer_bell.fd, self.end._bell.fd]
        with suppress(BlockingIOError):
            os.eventfd_write(bells[0], count)
        if self.luck.random() < 0.2:
            with suppress(BlockingIOError):
                os.eventfd_read(self.luck.choice(bells))

    def punch(self) -> None:
        """Take pages away under everybody's eyes."""
        self.call(4, np.ones(1 << 16, np.float32))
        at = self.luck.randrange(self.layout.segment_nbytes) // PAGE_NBYTES * PAGE_NBYTES
        _libc.fallocate(self.end._memory.fd, _PUNCH_HOLE, self.luck.choice([0, at]), SPAN_NBYTES)  # type: ignore[attr-defined]

    def resize(self) -> None:
        """What the seals must not let happen."""
        for nbytes in (0, PAGE_NBYTES, 2 * self.layout.segment_nbytes):
            try:
                os.ftruncate(self.end._memory.fd, nbytes)  # type: ignore[attr-defined]
            except PermissionError:
                continue
            raise AssertionError("a lane's memory could be resized")

    def write_entry(self) -> None:
        """An entry that is nearly right, in the right place, told by the doorbell."""
        luck, layout = self.luck, self.layout
        edges = [0, 64, layout.request_half, layout.request_half + 64, layout.reply_half, layout.segment_nbytes]
        producer = self.end._producer
        next_id = self.end._last_id + 1
        entry = (
            luck.choice([0, CALL, CALL, CALL, 2, 3, 4, 5, 6, 7, 255]),
            luck.choice([0, 0, 0, DEFINES, INDIRECT, STREAM, 15, 255]),
            luck.choice([0, 0, 1, 3, 4, 6, 7, 65535]),
            luck.choice([0, producer.acked, producer.published & 0xFFFF_FFFF, luck.getrandbits(32)]),
            luck.choice([next_id, next_id, next_id, 0, next_id - 1, next_id + 1, luck.getrandbits(64)]),
            luck.choice([*edges, luck.randrange(layout.segment_nbytes), luck.getrandbits(64)]),
            luck.choice([0, 8, 64, 1024, layout.request_half_nbytes & 0xFFFF_FFFF, 0xFFFF_FFFF, luck.getrandbits(32)]),
            luck.choice([0, 0, 1, 2, 256, 257, 0xFFFF_FFFF]),
            luck.choice([0, 0, 1, luck.getrandbits(64)]),
            *(luck.choice([*edges, luck.getrandbits(64)]) for _ in range(3)),
        )
        at = layout.request_ring + (producer.published % layout.ring_entries) * ENTRY_NBYTES
        ENTRY.pack_into(self.memory, at, *entry)
        producer.published += 1
        producer.flushed = producer.published
        self.end._last_id += entry[0] == CALL
        self.ring(1)

    def send_bytes(self, data: bytes, signature: int = 0, flags: int = 0) -> None:
        """A proper call, whose block holds anything."""
        offset = self.end.claim(len(data) or 1)
        self.memory[offset : offset + len(data)] = data
        self.end.publish_call(None, offset, len(data), signature, flags)
        self.end.flush()

    def spoiled(self, data: bytes) -> bytes:
        """The same with a few bytes changed, or cut."""
        changed = bytearray(data)
        for _ in range(self.luck.randrange(1, 6)):
            changed[self.luck.randrange(len(changed))] = self.luck.choice([0, 1, 0x7F, 0xFF, self.luck.randrange(256)])
        return bytes(changed[: self.luck.choice([len(changed), len(changed), self.luck.randrange(len(changed))])])

    def meta(self) -> bytes:
        luck = self.luck
        shape = luck.choice([[256], [], [0], [1 << 31, 1 << 31], [16, 16], [1] * 40])
        dtype = luck.choice(["float32", "float32", "bfloat16", "object", "", "float3"])
        params = luck.choice([{}, {}, {"x": 1}, {"deep": [[[[[1]]]]] * 8}, {"method": "keep"}])
        return encode_meta(
            CallMeta(luck.choice(["predict", "echo", "keep", ""]), params, [TensorSpec("x", dtype, shape)])
        )

    def send_definition(self) -> None:
        """Forms that mean something, nearly something, and nothing; and calls of those forms."""
        number = self.luck.choice([1, 2, 3, 255, 256, 257, 0])
        meta = self.meta()
        self.send_bytes(meta if self.luck.random() < 0.5 else self.spoiled(meta), number, DEFINES)
        for _ in range(3):
            data = self.luck.randbytes(self.luck.choice([0, 16, 64, 1024]))
            self.send_bytes(data, self.luck.choice([number, number, 4, 0]), self.luck.choice([0, 0, INDIRECT, STREAM]))

    def send_message(self) -> None:
        """A whole message with a few bytes wrong."""
        meta = self.meta()
        head = pack_header(Kind.CALL, int(Flag.PACKED), 1, meta_nbytes=len(meta))
        message = head + meta
        message += bytes(-len(message) % 64) + X.tobytes()
        for _ in range(3):
            self.send_bytes(self.spoiled(message))

    def release_what_is_not_there(self) -> None:
        self.call()
        for _ in range(self.luck.randrange(1, 10)):
            self.end.release(self.luck.choice([0, self.layout.reply_half, self.luck.getrandbits(64)]))
        self.call()

    def never_listen(self) -> None:
        """Calls until there is no room, and no answer is taken."""
        with suppress(ShmError):
            for _ in range(600):
                self.call(1)

    def forget(self) -> None:
        """Go without a word, with calls under way."""
        self.call(16)
        raise Gone


class Gone(Exception):
    """The hostile caller drops its lane."""


ATTACKS: list[Callable[[Hostile], None]] = [
    Hostile.write_header,
    Hostile.write_state,
    Hostile.write_rings,
    Hostile.write_everywhere,
    Hostile.write_blocks_under_way,
    Hostile.ring,
    Hostile.punch,
    Hostile.resize,
    *[Hostile.write_entry] * 4,
    *[Hostile.send_definition] * 3,
    *[Hostile.send_message] * 3,
    Hostile.release_what_is_not_there,
    Hostile.never_listen,
    Hostile.forget,
]


def attack(fetched: Fetched, luck: random.Random, done: Counter[str]) -> str:
    """Until the lane is closed, or long enough; returns how it ended."""
    lane = Hostile(fetched, luck)
    try:
        for _ in range(STEPS_MAX):
            one = luck.choice(ATTACKS)
            done[one.__name__] += 1
            one(lane)
            lane.listen()
            if lane.is_closed:
                return "closed"
    except Gone:
        return "left"
    except (ShmError, huterox.HuteroxError, huterox.lease.LaneGone) as exc:
        return f"closed: {type(exc).__name__}" if lane.is_closed else f"gave up: {type(exc).__name__}"
    return "still there"


def main() -> int:
    endpoint, service, seed = sys.argv[1:]
    luck = random.Random(int(seed))
    with huterox.connect(endpoint, lanes=False, timeout=20.0) as client:
        handle = client.service(service)._lease.handle
        _say({"ready": True})
        for line in sys.stdin:
            done: Counter[str] = Counter()
            ends: Counter[str] = Counter()
            for _ in range(int(line)):
                try:
                    fetched = client._leases._fetch(handle)
                except huterox.HuteroxError as exc:
                    ends[f"no lane: {exc}"] += 1
                    time.sleep(0.05)
                    continue
                with fetched:
                    ends[attack(fetched, luck, done)] += 1
            _say({"done": dict(done), "ends": dict(ends)})
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
