"""What the core knows of one container."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from huterox_kernel.core.lifecycle import State, Step, after
from huterox_wire import ids
from huterox_wire.nodes import ContainerReport, ContainerState, ModelSpec

Cause = Literal["", "closed", "load_failed", "crashed", "load_timeout", "hung", "refused"]

HISTORY_MAX: Final = 8
MIB: Final = 1024 * 1024

_REPORTED: Final[dict[State, ContainerState]] = {
    State.STARTING: "creating",
    State.LOADING: "creating",
    State.READY: "ready",
    State.CLOSING: "draining",
    State.RETURNING: "draining",
    State.GONE: "gone",
}


def text_of(container: int) -> str:
    """The id as people see it."""
    return ids.text_of("c", container)


@dataclass(slots=True)
class Record:
    """One container, from CREATE to the end of its process.

    `service`, `device`, `revision` and `reserved_bytes` are what CREATE named, `load_timeout_s` what it gave the load,
    which grows with the model's size. `host_bytes` is what it holds, `is_measured` since it was ready. `deadline_s` is
    when the core must act by itself: kill a load that takes too long, or a worker whose grace is over.
    `cause` is set as soon as it is known why the worker will end, before it has ended. `draining`: its callers' lanes
    are to end, and it takes no new ones; calls that come through the switchboard go on.
    """

    container: int
    model: ModelSpec
    deadline_s: float | None
    load_timeout_s: float
    service: int = 0
    device: str = ""
    revision: str = ""
    state: State = State.STARTING
    stage: str = "fork"
    pid: int = 0
    pid_started: int = 0
    reserved_bytes: int = 0
    is_measured: bool = False
    host_bytes: int = 0
    device_bytes: int = 0
    cause: Cause = ""
    reason: str = ""
    traceback: str = ""
    killed: bool = False
    draining: bool = False
    history: deque[str] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))

    def take(self, step: Step) -> None:
        """Go on to the state that follows. Raises IllegalTransition."""
        self.state = after(self.state, step, text_of(self.container), list(self.history))
        self.history.append(str(step))

    def blame(self, cause: Cause, reason: str, traceback: str = "") -> None:
        """Remember why it ends. The first cause stays: what comes later only follows from it."""
        if not self.cause:
            self.cause, self.reason, self.traceback = cause, reason, traceback

    def report(self) -> ContainerReport:
        """As heartbeats tell it; the counters are the lane's and are filled in by the shell."""
        return ContainerReport(
            container=self.container,
            model=self.model.name,
            version=self.model.version,
            state="draining" if self.draining and self.state is State.READY else _REPORTED[self.state],
            pid=self.pid,
            pid_started=self.pid_started,
            service=self.service,
            host_bytes=self.host_bytes,
            device=self.device,
            device_bytes=self.device_bytes,
            reason=self.reason,
            revision=self.revision,
        )
