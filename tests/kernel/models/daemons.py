"""A model that starts processes which try to get away."""

import os
import subprocess
import sys
import time

LIVES_S = 60.0  # then they end by themselves, should nobody end them

HOLDS = (
    "import sys, time; held = bytearray(int(sys.argv[1]) << 20); print(len(held), flush=True); "
    "time.sleep(float(sys.argv[2]))"
)
FORKS = """
import os, sys, time
os.open(sys.argv[1], os.O_WRONLY)
until_s = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until_s:
    if os.fork():
        os._exit(0)  # its child goes on, under another pid and another parent
    os.setsid()
    time.sleep(0.005)
"""


class Daemons:
    def session(self, mb: int = 0) -> int:
        """A process in a session of its own."""
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(mb), str(LIVES_S)], start_new_session=True, stdout=subprocess.PIPE, env={}
        )
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    def daemon(self, mb: int = 0) -> int:
        """As daemons are made: forked twice, in a session of its own, adopted by somebody else."""
        reads, writes = os.pipe()
        if (first := os.fork()) == 0:
            os.setsid()
            if os.fork() == 0:
                held = bytearray(mb << 20)
                held[::4096] = b"x" * len(held[::4096])
                os.write(writes, str(os.getpid()).encode())
                time.sleep(LIVES_S)
            os._exit(0)
        os.waitpid(first, 0)
        return int(os.read(reads, 32))

    def escapes(self, fifo: str) -> int:
        """One that forks again and again, each time with another parent. Whoever goes on has the FIFO open."""
        return subprocess.Popen([sys.executable, "-c", FORKS, fifo, str(LIVES_S)], start_new_session=True).pid

    def predict(self) -> int:
        return os.getpid()
