"""A caller in a process of its own: `python -m huterox_bench.lane.caller ENDPOINT SERVICE WINDOW NBYTES`.

Says one JSON line when it has its lane, and one after each slice, followed by the latencies as 64-bit numbers. A line
on stdin, [seconds, calls_max], is the order for a slice; the end of stdin is its own.
"""

import json
import sys
from time import perf_counter_ns
from typing import Any

import huterox
from huterox_bench.errors import BenchError
from huterox_bench.loads import Shape, Slice, SliceLimit
from huterox_bench.sdk.calls import LANE, ServiceCalls, reach
from huterox_bench.sdk.services import CALL_TIMEOUT_S
from huterox_wire.errors import HuteroxError


def main(endpoint: str, service: str, window: str, nbytes: str) -> int:
    """Call until nobody orders any more; returns the exit status."""
    try:
        with huterox.connect(endpoint, timeout=CALL_TIMEOUT_S) as client:
            calls = ServiceCalls(reach(client.service(service), LANE), LANE, Shape(int(window), int(nbytes)))
            _say(ready=True)
            for order in sys.stdin.buffer:
                started_ns = perf_counter_ns()
                slice_ = calls.run(SliceLimit(*json.loads(order)))
                _tell(started_ns, slice_)
    except (BenchError, HuteroxError) as exc:
        _say(error=str(exc))
        return 1
    return 0


def _tell(started_ns: int, slice_: Slice) -> None:
    _say(started_ns=started_ns, elapsed_ns=slice_.elapsed_ns, calls=len(slice_.latencies_ns))
    sys.stdout.buffer.write(slice_.latencies_ns.tobytes())
    sys.stdout.buffer.flush()


def _say(**values: Any) -> None:
    sys.stdout.buffer.write(json.dumps(values).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
