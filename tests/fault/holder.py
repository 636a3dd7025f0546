"""Holds one lane for each of many services: `python -m tests.fault.holder ENDPOINT NAMES`.

`routed` warms up, `take` has a lane for each and calls through it, `call` calls through all that are there.
"""

import json
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

import huterox

LANES_A_CLIENT = 50
REACH_S = 60.0
X = np.arange(256, dtype=np.float32)


def reach(service: huterox.Service) -> None:
    until_s = time.monotonic() + REACH_S
    while service.path != "lane" and time.monotonic() < until_s:
        service(x=X)


def call_all(services: list[huterox.Service]) -> dict[str, int]:
    right = [np.array_equal(service(x=X + number)["result"], X + number + 1) for number, service in enumerate(services)]
    return {"lanes": sum(service.path == "lane" for service in services), "right": sum(right)}


def main() -> int:
    endpoint, names = sys.argv[1], json.loads(sys.argv[2])
    services: list[huterox.Service] = []
    with ExitStack() as stack:
        _say({})
        clients = [
            stack.enter_context(huterox.connect(endpoint, timeout=30.0)) for _ in range(0, len(names), LANES_A_CLIENT)
        ]
        for line in sys.stdin:
            match line.strip():
                case "routed":
                    with huterox.connect(endpoint, timeout=30.0, lanes=False) as client:
                        client.service(names[0])(x=X)
                    _say({})
                case "take":
                    services = [clients[n // LANES_A_CLIENT].service(name) for n, name in enumerate(names)]
                    for service in services:
                        reach(service)
                    _say(call_all(services))
                case "call":
                    _say(call_all(services))
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
