"""A caller with a lane of its own: fetches it from the kernel, and calls in whole messages.

Run as a program it is a process that tests can kill: PATH TOKEN, then what to do (see `main`).
"""

import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from huterox_shm.handover import receive_descriptors
from huterox_shm.lane import ERROR, PART, STREAM, CallerEnd, LaneDescriptors
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import GRANT_NBYTES_MAX, LaneGranted, LeasedMeta, decode_granted_or_refused, encode_hello
from huterox_wire.message import decode, slice_tensors
from huterox_wire.meta import CallMeta, decode_error, decode_reply, encode_meta
from huterox_wire.payload import join_values, split_values

PATIENCE_S = 20.0


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)  # without a time limit: with one, a full queue of connections is an error
    except OSError:
        sock.close()
        raise
    sock.settimeout(PATIENCE_S)
    return sock


def fetch(leased: LeasedMeta) -> "Caller":
    """The lane that was promised. Raises what the kernel refuses with."""
    sock = connect(leased.path)
    try:
        sock.send(encode_hello(leased.token))
        packet, descriptors = receive_descriptors(sock, GRANT_NBYTES_MAX, 3)
        granted = decode_granted_or_refused(packet)
    except BaseException:
        sock.close()
        raise
    return Caller(granted, sock, CallerEnd.attach(LaneDescriptors(*descriptors)))


class Caller:
    """One lane, and what came out of it."""

    def __init__(self, granted: LaneGranted, sock: socket.socket, end: CallerEnd) -> None:
        self.granted = granted
        self.sock = sock
        self.end = end
        self.answers: dict[int, list[Any]] = {}  # by call id; parts, then the final one

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        self.end.close()

    def send(
        self,
        method: str = "predict",
        *,
        stream: bool = False,
        anyway: bool = False,
        deadline_us: int = 0,
        **values: Any,
    ) -> int:
        """Publish a call; returns its id. `anyway`: whatever state the lane is in."""
        params, specs, buffers = split_values(values)
        meta = encode_meta(CallMeta(method, params, specs))
        head = pack_header(Kind.CALL, Flag.PACKED, len(buffers), 0, 0, 0, len(meta)) + meta
        frame = bytearray(head)
        for buffer in buffers:
            frame += bytes(-len(frame) % 64) + bytes(buffer)
        assert len(head) == HEADER_NBYTES + len(meta)
        offset = (self.end._claim if anyway else self.end.claim)(len(frame))
        self.end.write_view(offset, len(frame))[:] = frame
        flags = STREAM if stream else 0
        call_id = self.end.publish_call(None, offset, len(frame), flags=flags, deadline_us=deadline_us)
        self.end.flush()
        return call_id

    def take(self) -> None:
        """Take what is there. Raises LaneDead."""
        for _, call_id, kind, _, _, offset, nbytes in self.end.take():
            self.answers.setdefault(call_id, []).append((kind, self._values(kind, offset, nbytes)))

    def _values(self, kind: int, offset: int, nbytes: int) -> Any:
        if not nbytes:
            return None
        message = decode([bytes(self.end.view(offset, nbytes))])
        self.end.release(offset)
        if kind == ERROR:
            return decode_error(message.meta)
        meta = decode_reply(message.meta)
        return join_values(meta.params, meta.tensors, slice_tensors(message, [s.nbytes for s in meta.tensors]))

    def until(self, done: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
        end_s = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end_s, f"nothing within {timeout_s} s"
            self.end.wait(0.05)
            self.take()

    def answer(self, call_id: int, timeout_s: float = PATIENCE_S) -> Any:
        """What a call ended with: values, or an error."""
        self.until(lambda: (got := self.answers.get(call_id)) and got[-1][0] != PART, timeout_s)
        return self.answers[call_id][-1][1]

    def result(self, method: str = "predict", **values: Any) -> Any:
        answer = self.answer(self.send(method, **values))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Has the kernel closed the connection?"""
        self.sock.settimeout(timeout_s or 0.001)
        try:
            return self.sock.recv(1) == b""
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionResetError:
            return True


def main(path: str, token: str, what: str, seconds: str = "0") -> None:
    """`hold`: have a lane. `work`: have a call of so many seconds running. `flood`: call again and again."""
    caller = fetch(LeasedMeta(path, bytes.fromhex(token), 0))
    if what == "work":
        caller.send(seconds=float(seconds))
        caller.until(lambda: caller.end.begun == 1)
    say(what)
    while what == "flood":
        caller.answer(caller.send(seconds=float(seconds)))
    time.sleep(600.0)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
