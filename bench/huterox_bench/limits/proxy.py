"""libzmq's own proxy, in C and in its own process: `python -m huterox_bench.limits.proxy FRONT BACK`.

`zmq.proxy` moves whole messages between a ROUTER and a DEALER without Python: no switchboard on ZeroMQ can do less.
"""

import sys

import zmq


def main(front: str, back: str) -> None:
    """Proxy until killed."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as callers, context.socket(zmq.DEALER) as workers:
        for socket, endpoint in ((callers, front), (workers, back)):
            socket.linger = 0
            socket.bind(endpoint)
        zmq.proxy(callers, workers)


if __name__ == "__main__":
    main(*sys.argv[1:3])
