"""A model that writes where only the worker writes."""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from huterox_kernel.worker.answers import Answers
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import MESSAGE_NBYTES_MAX


class Hostile:
    def predict(self) -> None:
        for link in sorted(Path("/proc/self/fd").iterdir(), key=lambda path: int(path.name)):
            target, descriptor = str(link.readlink()) if link.is_symlink() else "", int(link.name)
            if "huterox-lane" in target:
                memory = mmap.mmap(descriptor, 0)
                reply_ring = 4096 + 1024 * 64
                if len(memory) > 2 * reply_ring:  # or it is the ledger
                    memory[reply_ring : reply_ring + 1024 * 64] = b"\x09" * (1024 * 64)
            elif "eventfd" in target:
                os.eventfd_write(descriptor, 1)
        while True:
            pass


class Liar:
    """Answers with what no worker of ours publishes: none of its checks is in the way."""

    def plus(self, x: np.ndarray) -> np.ndarray:
        return x + 1

    def predict(self, lie: str) -> Any:
        honest = Answers.whole

        def whole(answers: Answers, kind: int, request_id: int, handle: int, _result: Any) -> Any:
            Answers.whole = honest  # type: ignore[method-assign]
            head = {
                "over": (Kind.REPLY, Flag.PACKED, 0, request_id),
                "returned": (Kind.CALL, Flag.PACKED, 0, request_id),
                "part": (Kind.PART, Flag.PACKED, 0, request_id),
                "split": (Kind.REPLY, 0, 0, request_id),
                "stranger": (Kind.REPLY, Flag.PACKED, 0, request_id + 1),
                "short": (Kind.REPLY, Flag.PACKED, 0, request_id),
            }[lie]
            offset = answers._lane.claim(64)
            answers._lane.write_view(offset, 40)[:] = pack_header(*head)
            nbytes = {"over": MESSAGE_NBYTES_MAX + 1, "short": 8}.get(lie, 40)
            return kind, offset, nbytes, 0, 0

        Answers.whole = whole  # type: ignore[method-assign]
        return 1
