"""The other process of the eventfd round trip: `python -m huterox_bench.limits.eventfd_peer PING_FD PONG_FD [CPU]`."""

import os
import sys
from typing import NoReturn


def main(ping: int, pong: int) -> NoReturn:
    """Hot path. Answer every wake-up with one."""
    write, read = os.eventfd_write, os.eventfd_read
    while True:
        read(ping)
        write(pong, 1)


if __name__ == "__main__":
    if sys.argv[3:]:
        os.sched_setaffinity(0, {int(sys.argv[3])})
    main(int(sys.argv[1]), int(sys.argv[2]))
