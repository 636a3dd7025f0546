"""Meta maps between the switchboard and a kernel.

Every command carries the epoch of the switchboard that gives it; a kernel refuses one that is older than the newest it
has seen, so that a paused old owner cannot close what a new one opened. A kernel decides nothing: it answers commands
with `ContainerEvent`s and tells what it sees in its heartbeat.
"""

from math import isnan
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Struct, field

from huterox_wire.limits import NAME_NBYTES_MAX
from huterox_wire.meta import Name, meta_decoder

HOST_ID_NBYTES_MAX: Final = 64
"""A machine's boot id, counted in Unicode code points."""

DEVICE_ID_NBYTES_MAX: Final = 64
"""A device's id, counted in Unicode code points."""

EPOCH_MAX: Final = 2**53
"""A larger one is nobody's: the switchboard must be able to step beyond what a kernel has seen."""

REVISION_NBYTES_MAX: Final = 64
"""What tells one deployment of a model from another, counted in Unicode code points."""

SPEC_NBYTES_MAX: Final = 256 * 1024
"""A ModelSpec as msgpack: it travels in CREATE, beside more, and is kept for each model."""

COUNT_MAX: Final = 2**31
Text = Annotated[str, msgspec.Meta(max_length=NAME_NBYTES_MAX)]
Path = Annotated[str, msgspec.Meta(max_length=4096)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MAX)]
Revision = Annotated[str, msgspec.Meta(max_length=REVISION_NBYTES_MAX)]

ContainerState = Literal["creating", "ready", "draining", "swapped", "gone"]


class Device(Struct, omit_defaults=True):
    """One GPU of a node, by the id that its driver gives it: orders of devices differ from library to library."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=DEVICE_ID_NBYTES_MAX)]
    nbytes: int
    name: str = ""


class Capacity(Struct, omit_defaults=True):
    """What a node may give to containers."""

    slots: int
    host_bytes: int
    devices: list[Device] = field(default_factory=list)


class DeviceFree(Struct, omit_defaults=True):
    """What a device's driver says is free now, whoever uses the rest."""

    id: str
    nbytes: int


class InputSpec(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a model expects under one input name. None in `shape` stands for any size.

    `writable`: the model may write into this input, which is the caller's memory. Otherwise arrays refuse it.
    """

    dtype: str = ""
    shape: list[Annotated[int, msgspec.Meta(ge=0)] | None] | None = None
    writable: bool = False


class Resources(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A model's declared footprint, in MiB."""

    host_mb: Annotated[int, msgspec.Meta(ge=0, le=2**24)] = 256
    gpu_mb: Annotated[int, msgspec.Meta(ge=0, le=2**24)] = 0


class ModelSpec(Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A model file (see interfaces): what to load and how. `source_dir` is where relative paths in `entry` start."""

    name: Name
    version: Text = "1"
    algorithm: Text = ""
    runtime: Literal["python", "torchscript"] = "python"
    entry: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    device: Literal["cpu", "cuda", "any"] = "cpu"
    idempotent: bool = False
    services_per_container: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] = 10
    replicas_max: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] = 8
    idle_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    load_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    interpreter: Path = ""
    source_dir: Path = ""
    params: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    inputs: dict[str, InputSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("idle_timeout_s", "load_timeout_s"):
            if isnan(getattr(self, name)):  # which passes every comparison, or none
                raise ValueError(f"{name} is not a number")


class LaneUsage(Struct, array_like=True, gc=False):
    """What callers did by their lanes to one container for one service: `[service, calls, errors, busy_us, idle_us]`.

    Totals since the container started, over all lanes that it had for the service, closed ones too: whoever knows what
    he has counted already can take the difference, and a report that is lost is made good by the next.
    """

    service: int
    calls: int
    errors: int
    busy_us: int
    idle_us: int  # time since the last call in any of those lanes


class ContainerReport(Struct, omit_defaults=True):
    """What a kernel sees of one container."""

    container: int
    model: str
    version: str
    state: ContainerState
    pid: int = 0
    started_s: float = 0.0  # seconds since the epoch, by the node's clock
    host_bytes: int = 0  # measured footprint: what would be free if the container ended
    device: str = ""  # the id of the device that it was given; empty: none
    device_bytes: int = 0  # measured there
    pid_started: int = 0  # start time of the process in clock ticks since the boot: with boot id and pid its identity
    service: int = 0  # as CREATE named it: the service that it is dedicated to; 0: shared
    requests: int = 0  # calls taken by the worker since it started, over the kernel's lane and its callers' lanes
    errors: int = 0
    busy_us: int = 0
    reason: str = ""
    lanes: int = 0  # callers' lanes that are open
    lane_calls: int = 0  # calls that the worker has taken out of them and not answered yet
    lane_usage: list[LaneUsage] = field(default_factory=list)
    lane_services: list[int] = field(default_factory=list)  # whose callers have lanes open, each once
    revision: Revision = ""  # as CREATE named it


class RegisterMeta(Struct, omit_defaults=True):
    """REGISTER, kernel -> switchboard: sent at start and whenever the switchboard asks for it."""

    node: Name
    boot: str  # changes with every start of the kernel
    pid: int
    host: str
    capacity: Capacity
    containers: list[ContainerReport] = field(default_factory=list)
    version: str = ""
    host_id: Annotated[str, msgspec.Meta(max_length=HOST_ID_NBYTES_MAX)] = ""  # the machine's boot id; empty: no lanes
    host_bytes_free: int = 0  # as a heartbeat tells it, which is still to come
    devices: list[DeviceFree] = field(default_factory=list)
    epoch_seen: Epoch = 0  # the newest that it was commanded in, and by whom, as RegisteredMeta told it; 0: by nobody
    store_seen: str = ""
    mark_seen: int = 0
    base_bytes: int = 0  # as in HeartbeatMeta


class RegisteredMeta(Struct, omit_defaults=True):
    """REGISTER, switchboard -> kernel: the answer. With `again` set it asks the kernel to register.

    `store` and `mark` say whose epoch it is: the store, and the start of its switchboard, both random.
    """

    epoch: int
    heartbeat_s: float
    again: bool = False
    store: str = ""
    mark: int = 0


class HeartbeatMeta(Struct, omit_defaults=True):
    """HEARTBEAT, kernel -> switchboard, every `heartbeat_s`. Echoed, so that the kernel knows its switchboard lives."""

    node: Name
    boot: str
    host_bytes_free: int = 0  # what the operating system says is available now
    containers: list[ContainerReport] = field(default_factory=list)
    devices: list[DeviceFree] = field(default_factory=list)
    calls: list[int] | None = None  # after a registration: the numbers of all calls that the kernel has
    base_bytes: int = 0  # host memory that is no single container's: zygotes, and what workers share with them


class CreateMeta(Struct, omit_defaults=True):
    """CREATE, switchboard -> kernel. Answered by EVENTs: loading, then ready or gone.

    `host_bytes` and `device_bytes` are what the switchboard has reserved for it, `load_timeout_s` how long the load may
    take; 0: as the model's file says. `service` is kept and told back in reports: a switchboard that was started anew
    must know whose the container is.
    """

    epoch: int
    container: int
    model: ModelSpec
    device: str = ""  # the id of the device to use; empty: none
    host_bytes: int = 0
    device_bytes: int = 0
    load_timeout_s: float = 0.0
    service: int = 0  # the service that it is dedicated to; 0: it is shared
    revision: Revision = ""  # of the model, opaque; told back in reports, too


class CloseMeta(Struct, omit_defaults=True):
    """CLOSE, switchboard -> kernel: stop the container; kill it after `grace_s`. Answered by the EVENT gone."""

    epoch: int
    container: int
    reason: str = ""
    grace_s: float = 5.0


class ContainerEvent(Struct, omit_defaults=True):
    """EVENT, kernel -> switchboard.

    `what`: "loading" (the process exists), "ready" (loaded and warmed up), "gone" (the process has ended and its
    memory is back), "drained" (no lane of a caller's is left, and none will be granted), "lane_broken" (a caller wrote
    nonsense into its lane, which was ended; `reason` names the service). `cause` of gone: "closed", "load_failed",
    "crashed", "load_timeout", "hung" (it did not come back, from a call or for its end), "refused".
    """

    container: int
    what: Literal["loading", "ready", "gone", "drained", "lane_broken"]
    pid: int = 0
    cause: Literal["", "closed", "load_failed", "crashed", "load_timeout", "hung", "refused"] = ""
    reason: str = ""  # for people: signal or exit code, the error's first line
    traceback: str = ""
    host_bytes: int = 0
    device_bytes: int = 0
    pid_started: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)  # by stage; "zygote" is the wait for one
    requests: int = 0  # of gone: calls taken in its life
    lane_usage: list[LaneUsage] = field(default_factory=list)  # of gone: the final totals


class LogArgs(Struct, omit_defaults=True):
    """Arguments of the ADMIN verb `logs`, switchboard -> kernel. A negative offset counts from the end."""

    container: int
    offset: int = -65536
    limit: Annotated[int, msgspec.Meta(ge=1, le=262144)] = 65536


decode_register = meta_decoder(RegisterMeta)
decode_registered = meta_decoder(RegisteredMeta)
decode_heartbeat = meta_decoder(HeartbeatMeta)
decode_create = meta_decoder(CreateMeta)
decode_close = meta_decoder(CloseMeta)
decode_container_event = meta_decoder(ContainerEvent)
