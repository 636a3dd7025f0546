"""Many runs, on all processors: which seeds fail, and what they met.

python -m tests.simulation.campaign 5000 --first 100000 --seconds 600
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from tests.simulation.play import play

CHUNK = 20
"""Seeds that one process plays in one go."""
WORKERS_MAX = 4


@dataclass(frozen=True)
class Played:
    """A few runs: what they met, and the seeds that failed with the reason."""

    seen: Counter[str]
    steps: int
    failures: dict[int, str]


def play_chunk(seeds: Sequence[int]) -> Played:
    """One after another."""
    seen: Counter[str] = Counter()
    failures: dict[int, str] = {}
    steps = 0
    for seed in seeds:
        try:
            world = play(seed)
        except Exception as exc:  # noqa: BLE001 - whatever a seed brings to light is reported with it
            failures[seed] = f"{type(exc).__name__}: {exc}"
            continue
        seen += world.seen
        steps += world.steps
    return Played(seen, steps, failures)


def play_many(first: int, count: int, seconds: float = float("inf")) -> Iterator[Played]:
    """Chunk by chunk, in order, until all are played or the time is over."""
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    workers = min(WORKERS_MAX, os.cpu_count() or 1)
    until_s = time.monotonic() + seconds
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = [pool.submit(play_chunk, chunk) for chunk in chunks]
        for future in futures:
            yield future.result()
            if time.monotonic() > until_s:
                pool.shutdown(cancel_futures=True)
                return


def told(failures: dict[int, str]) -> str:
    """Every failure with the command that replays it."""
    return "\n".join(f"python -m tests.simulation.play {seed}    # {why}" for seed, why in sorted(failures.items()))


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m tests.simulation.campaign", description=__doc__.splitlines()[0])
    made.add_argument("count", type=int)
    made.add_argument("--first", type=int, default=0)
    made.add_argument("--seconds", type=float, default=float("inf"))
    parsed = made.parse_args()
    began_s, played = time.monotonic(), 0
    failures: dict[int, str] = {}
    seen: Counter[str] = Counter()
    for part in play_many(parsed.first, parsed.count, parsed.seconds):
        played = min(played + CHUNK, parsed.count)
        failures |= part.failures
        seen += part.seen
        if part.failures:
            sys.stdout.write(f"{told(part.failures)}\n")
            sys.stdout.flush()
    took_s = time.monotonic() - began_s
    sys.stdout.write(f"{played} seeds in {took_s:.1f} s, {played / took_s:.1f} a second, {len(failures)} failed\n")
    sys.stdout.write(f"{dict(seen.most_common())}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
