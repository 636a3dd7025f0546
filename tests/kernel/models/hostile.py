"""A model that writes where only the worker writes."""

import mmap
import os
from pathlib import Path


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
