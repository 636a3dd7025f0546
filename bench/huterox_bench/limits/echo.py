"""The plainest worker: sends back what comes. `python -m huterox_bench.limits.echo BACK`."""

import sys
from typing import Any, NoReturn

import zmq

COPY_NBYTES_MAX = 65536
"""Up to this size libzmq copies anyway, and a copy is cheaper than a frame object."""


def main(back: str) -> NoReturn:
    """Hot path. Echo until killed."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(back)
        copy = True
        while True:
            identity = socket.recv()
            body: Any = socket.recv(0, copy)  # bytes or a frame, which is sent on as it is
            socket.send(identity, zmq.SNDMORE)
            socket.send(body, 0, copy)
            copy = len(body) <= COPY_NBYTES_MAX  # the next message has most likely this size again


if __name__ == "__main__":
    main(sys.argv[1])
