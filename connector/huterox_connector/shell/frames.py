"""Messages as frames on a ROUTER: read whole and bounded, and sent uncopied."""

import struct
from collections.abc import Sequence
from typing import Any, Final

import zmq

from huterox_wire.errors import TooLarge
from huterox_wire.header import HEADER_NBYTES
from huterox_wire.limits import MESSAGE_NBYTES_MAX, TENSORS_MAX

FRAMES_MAX: Final = TENSORS_MAX + 2
NOBLOCK: Final = zmq.NOBLOCK
MORE: Final = zmq.SNDMORE | zmq.NOBLOCK
LAST: Final = zmq.NOBLOCK

_UNREAD_MAX: Final = 128  # messages of one peer that ZeroMQ reads ahead: their bytes are counted by nobody
_BACKLOG: Final = 64  # connections that the system keeps until ZeroMQ takes them
_SILENT_S: Final = 15  # TCP: after so long without a byte the system asks whether the other side is there
_REQUEST_ID: Final = struct.Struct("<8xQ")


def bind_router(
    context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, hwm: int, linger_ms: int, *, takeover: bool = False
) -> "zmq.Socket[bytes]":
    """A ROUTER that says whom it cannot reach.

    Args:
        hwm: messages that may wait for one peer.
        takeover: who connects under an identity that is in use has it from then on. A kernel that connects again after
            a silence does: its old connection may not have been noticed to be dead. The identity has the random part
            that a kernel makes at its start, so that nobody else can.

    Raises:
        zmq.ZMQError: the endpoint cannot be bound.
    """
    socket = context.socket(zmq.ROUTER)
    socket.set_hwm(hwm)
    for option, value in (
        (zmq.LINGER, linger_ms),
        (zmq.ROUTER_MANDATORY, 1),
        (zmq.ROUTER_HANDOVER, takeover),
        (zmq.MAXMSGSIZE, MESSAGE_NBYTES_MAX),
        (zmq.RCVHWM, _UNREAD_MAX),
        (zmq.BACKLOG, _BACKLOG),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, _SILENT_S),
        (zmq.TCP_KEEPALIVE_INTVL, _SILENT_S),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError:
        socket.close(linger=0)
        raise
    return socket


def further_frames(receive: Any) -> list[zmq.Frame]:
    """Hot path. The rest of a message whose first frames were read; they are there, since messages arrive whole.

    Of too many, one more than a message may have is read, and the rest left: see `skip_excess`.
    """
    frame = receive(NOBLOCK, False)
    frames = [frame]
    while frame.more and len(frames) < FRAMES_MAX:
        frame = receive(NOBLOCK, False)
        frames.append(frame)
    return frames


def skip_excess(receive: Any, frames_max: int) -> bool:
    """Drop some of the frames that a message has too many. False: there are more; others have their turn first."""
    return any(not receive(NOBLOCK, False).more for _ in range(frames_max))


def send_frames(send: Any, frames: Sequence[Any]) -> None:
    """Hot path. Send the last part of a message; frames that came in go out uncopied."""
    for frame in frames[:-1]:
        send(frame, MORE, False)
    send(frames[-1], LAST, False)


def request_id_of(first: Any) -> int:
    """Of a message whose header may be too short to have one: 0."""
    return int(_REQUEST_ID.unpack_from(first)[0]) if len(first) >= HEADER_NBYTES else 0


def too_many_frames() -> TooLarge:
    return TooLarge(f"a message has at most {FRAMES_MAX} frames; this one has more", limit=FRAMES_MAX)
