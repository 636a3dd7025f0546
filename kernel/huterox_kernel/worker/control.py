"""What kernel, zygote and worker say to each other over socket pairs: one msgpack map per packet, tagged by type.

Kernel and zygote: `ForkOrder` in; `Importing`, `Unfit`, `ZygoteReady`, `Forked`, `ForkFailed`, `Ended` out. Kernel and
worker: `StartSent`, `AddLane`, `DropLane`, `DrainLanes` and `Close` in; `Progress`, `Ready`, `Imported`, `Failed`,
`LaneBroken` and `LaneDropped` out.
Descriptors travel beside the packet. A `Start` may be larger than a packet can be, so it comes as a file.

The life of a caller's lane in a worker goes from `AddLane` to `LaneDropped`, which comes exactly once, whoever ended
the lane: from then on the worker neither reads it nor counts in its slot.
"""

import array
import os
import socket
from typing import Any, Final

import msgspec
from msgspec import Struct

from huterox_shm.descriptors import move_all
from huterox_wire.nodes import ModelSpec

PACKET_NBYTES_MAX: Final = 64 * 1024
TRACEBACK_NBYTES_MAX: Final = 16 * 1024
REASON_NBYTES_MAX: Final = 1024
DESCRIPTORS_MAX: Final = 8
EXIT_DESCRIPTORS: Final = 71
"""How a worker ends whose descriptors the model has closed: it cannot say so any more."""

START_NBYTES_MAX: Final = 8 * 1024 * 1024


class ForkOrder(Struct, tag=True):
    """Beside it: the log file, the worker's end of its control socket."""

    container: int
    model: str
    mark: int = 0  # what the worker wears, and all that comes of it


class Importing(Struct, tag=True):
    """The zygote is about to import this module; if it ends now, that is why. Empty: it imports none."""

    module: str


class Unfit(Struct, tag=True):
    """After the import of this module no worker can be forked; the zygote ends."""

    module: str
    reason: str


class ZygoteReady(Struct, tag=True):
    """The zygote takes orders. `skipped` names what could not be imported, and why.

    `took_s`: the learned modules that it has imported; those that came with an earlier one are not among them.
    """

    modules: list[str]
    skipped: dict[str, str]
    took_s: dict[str, float] = msgspec.field(default_factory=dict)
    fingerprint: str = ""  # of the interpreter's packages


class Forked(Struct, tag=True):
    """Beside it: a pidfd of the worker."""

    container: int
    pid: int


class ForkFailed(Struct, tag=True):
    container: int
    reason: str


class Ended(Struct, tag=True):
    """A worker was reaped. `status` is that of waitpid."""

    container: int
    status: int


class StartSent(Struct, tag=True):
    """Beside it: a file with a `Start`; memfd, request doorbell and reply doorbell of the kernel's lane; the ledger."""


class Start(Struct):
    """What a worker is to serve."""

    container: int
    model: ModelSpec
    torch_threads: int = 1
    spin_us: int = 0
    device: str = ""  # the id of the only one that the process may see; empty: none
    cpus: int = 1  # that this process may use


class AddLane(Struct, tag=True):
    """Serve a caller's lane too. Beside it: its memfd, request doorbell and reply doorbell."""

    lane: int
    slot: int  # of the ledger: where the worker counts what the lane does
    title: str  # of the service


class DropLane(Struct, tag=True):
    """The caller has gone: let go of its lane, whatever is in it."""

    lane: int


class DrainLanes(Struct, tag=True):
    """Work off what is in the callers' lanes now, then let go of them. `lanes`: these alone; empty: all."""

    lanes: list[int] = msgspec.field(default_factory=list)


class Close(Struct, tag=True):
    """Finish what is in the lanes, then end."""


class Progress(Struct, tag=True):
    stage: str  # import, load, warmup


class Ready(Struct, tag=True):
    taken_s: float  # when the zygote took the order, on the system's monotonic clock
    timings_s: dict[str, float]  # fork, import, load, warmup: all the time since then


class Imported(Struct, tag=True):
    """Library modules that a load has imported and its zygote had not, where that took long: importers come first.

    `sets_environment`: the model's code has set environment variables meanwhile, perhaps for a library to find them
    there when it is imported. `nbytes`: by how much the process grew while the model's code was imported.
    """

    modules: list[str]
    sets_environment: bool = False
    nbytes: int = 0


class Failed(Struct, tag=True):
    reason: str
    traceback: str


class LaneBroken(Struct, tag=True):
    """A caller wrote nonsense into its lane. `LaneDropped` follows."""

    lane: int
    reason: str


class LaneDropped(Struct, tag=True):
    """The worker has let go of a lane: what its slot of the ledger says is final."""

    lane: int


ToZygote = ForkOrder
FromZygote = Importing | Unfit | ZygoteReady | Forked | ForkFailed | Ended
ToWorker = StartSent | AddLane | DropLane | DrainLanes | Close
FromWorker = Progress | Ready | Imported | Failed | LaneBroken | LaneDropped

_INT = array.array("i")
_ENCODE = msgspec.msgpack.Encoder().encode


class ControlError(Exception):
    """A packet that makes no sense: the peer cannot be worked with."""


class Decoder:
    """Decodes the packets of one direction."""

    def __init__(self, kinds: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kinds).decode

    def __call__(self, packet: bytes) -> Any:
        try:
            return self._decode(packet)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ControlError(f"malformed packet: {exc}") from exc


def send(sock: socket.socket, message: Struct, descriptors: list[int] | None = None) -> None:
    """Send one packet. Raises OSError: the peer is gone, or does not take it now (BlockingIOError)."""
    packet = _ENCODE(message)
    if len(packet) > PACKET_NBYTES_MAX:
        raise ControlError(f"a packet of {len(packet)} bytes; at most {PACKET_NBYTES_MAX}")
    if descriptors:
        socket.send_fds(sock, [packet], descriptors)
    else:
        sock.send(packet)


def receive(sock: socket.socket, decode: Decoder) -> tuple[Any, list[int]] | None:
    """One packet and what came beside it; None when the peer has closed. Descriptors do not outlive an exec.

    Where not all descriptors could be taken (this process has too many), there are none: the rest was closed.

    Raises:
        BlockingIOError: nothing is there.
        ControlError: the packet makes no sense.
    """
    # Not socket.recv_fds: in 3.11 it forgets its flags, and with them close-on-exec.
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT.itemsize)
    packet, ancillary, flags, _ = sock.recvmsg(PACKET_NBYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = [descriptor for item in ancillary for descriptor in _descriptors_in(*item)]
    if not packet and not descriptors:
        return None
    if flags & socket.MSG_CTRUNC:
        close_all(descriptors)
        descriptors = []
    try:
        if flags & socket.MSG_TRUNC:
            raise ControlError("a packet was cut off")
        return decode(packet), descriptors
    except ControlError:
        close_all(descriptors)
        raise


def _descriptors_in(level: int, kind: int, data: bytes) -> list[int]:
    if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
        return []
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % _INT.itemsize])
    return move_all(descriptors)


def close_all(descriptors: list[int]) -> None:
    """Close what was received and is not wanted."""
    for descriptor in descriptors:
        os.close(descriptor)


def write_start(start: Start) -> int:
    """A file descriptor that holds `start`; the caller sends and closes it."""
    descriptor = os.memfd_create("huterox-start", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(_ENCODE(start))
    return descriptor


def read_start(descriptor: int) -> Start:
    """The `Start` in a file that `write_start` made. Closes it. Raises ControlError."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        data = file.read(START_NBYTES_MAX)
    try:
        return msgspec.msgpack.decode(data, type=Start)
    except msgspec.MsgspecError as exc:
        raise ControlError(f"malformed start: {exc}") from exc
