"""The one socket of a client, and frames over it."""

from typing import Any, Final

import zmq

from huterox.core import Limits
from huterox_wire.header import Buffer

COPIED_NBYTES_MAX: Final = 64 * 1024
"""Frames up to this size are copied when they are sent and received; larger ones are not."""

LINGER_MS: Final = 200
NOBLOCK: Final = int(zmq.NOBLOCK)
_SNDMORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


def open_dealer(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, limits: Limits) -> "zmq.Socket[bytes]":
    """A DEALER that connects to `endpoint`, and connects again by itself whenever the other side comes back."""
    dealer = context.socket(zmq.DEALER)
    dealer.linger = LINGER_MS
    # Room for a call and its CANCEL each; what does not fit is refused and never waits.
    dealer.sndhwm = dealer.rcvhwm = 2 * limits.in_flight_max
    dealer.connect(endpoint)
    return dealer


def send_frames(socket: Any, frames: list[Buffer]) -> None:
    """Hot path. Send one message without waiting. Large frames are not copied: their memory stays in use for a while.

    Raises:
        zmq.Again: the send queue is full; nothing was sent.
    """
    if len(frames) == 1:
        socket.send(frames[0], NOBLOCK)
        return
    last = len(frames) - 1
    try:
        for index, frame in enumerate(frames):
            socket.send(frame, NOBLOCK if index == last else _SNDMORE, len(frame) <= COPIED_NBYTES_MAX)
    except KeyboardInterrupt:
        socket.send(b"", NOBLOCK)  # an unfinished message would swallow the next one
        raise


def receive_rest(socket: Any, frame: zmq.Frame) -> list[Buffer]:
    """The frames of the message that `frame` begins."""
    frames = [read_only(frame)]
    while frame.more:
        frame = socket.recv(NOBLOCK, False)
        frames.append(read_only(frame))
    return frames


def read_only(frame: zmq.Frame) -> Buffer:
    """Hot path. A frame's bytes; small ones are copied, which also aligns them to 16 bytes."""
    return frame.bytes if len(frame) <= COPIED_NBYTES_MAX else frame.buffer.toreadonly()
