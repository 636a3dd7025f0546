"""The kernel's configuration: every limit and time, with its unit."""

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Struct, field

from huterox_wire.endpoints import check_endpoint
from huterox_wire.errors import InvalidInput
from huterox_wire.leases import HALF_MB_MAX, RING_ENTRIES_MAX, SOCKET_PATH_NBYTES_MAX

MIB: Final = 1024 * 1024
LANES_SOCKET: Final = "lanes.sock"
ALL_DEVICES: Final = "all"

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
HalfMb = Annotated[int, msgspec.Meta(ge=1, le=HALF_MB_MAX)]
DeviceMb = Annotated[int, msgspec.Meta(ge=0)] | dict[str, Annotated[int, msgspec.Meta(ge=0)]]
RingEntries = Annotated[int, msgspec.Meta(ge=128, le=RING_ENTRIES_MAX)]


class ConfigError(Exception):
    """The configuration cannot be used; the message is one line for people."""


class KernelConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`kernel.toml`. A time or limit that is not given has the value below."""

    switchboard: str  # the endpoint of its back socket, e.g. "ipc:///run/huterox/back.ipc"
    dir: str  # logs and the lock; made if it is missing
    node: Annotated[str, msgspec.Meta(max_length=64)] = ""  # empty: the host's name
    slots: Positive = 16  # containers at once
    host_mb: Annotated[int, msgspec.Meta(ge=0)] = 0  # memory for containers; 0: `host_share`
    host_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8  # of what the machine, or a control group, offers
    die_with_parent: bool = False  # end when the process that started this one ends

    devices: str | list[str] = "all"  # GPUs for containers: all of them, or the ids (UUIDs) of some; []: none
    device_mb: DeviceMb = 0  # memory of each for containers, or by id, { "GPU-..." = N }; 0 or no id: all of it
    memory_return_timeout_s: Seconds = 5.0  # how long a device may take to give an ended container's memory back

    preload: list[str] = field(default_factory=lambda: ["numpy", "torch"])  # what zygotes import, where installed
    preload_learned: bool = True  # import what models were seen to import, too: the next load finds it there
    # of each worker, inside one operation; 0: as many as processors may be used (affinity, quotas of control groups)
    torch_threads: Annotated[int, msgspec.Meta(ge=0)] = 1
    worker_spin_us: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 50  # a look for calls before sleeping; 0: none
    preload_timeout_s: Seconds = 60.0  # for each import of a zygote; a module that takes longer is left out
    zygote_start_timeout_s: Seconds = 120.0  # without its imports; and for each worker that it is to make
    zygote_idle_s: Seconds = 300.0  # a zygote of a foreign interpreter that has no workers ends after this

    lane_half_mb: HalfMb = 1024  # of either direction; memory is taken as needed
    lane_ring_entries: RingEntries = 1024
    busy_retry_after_s: Seconds = 0.05  # told to callers whose call found the lane full

    lease_half_mb: HalfMb = 512  # of callers' lanes, where they do not say: room for the largest message
    lease_half_mb_max: HalfMb = 4096  # what callers that ask for more get
    lease_ring_entries: RingEntries = 1024
    lease_token_s: Seconds = 5.0  # for a caller to fetch the lane that it was promised
    lease_lanes_max: Annotated[int, msgspec.Meta(ge=0)] = 1024  # of all callers together; 0: callers have no lanes
    lease_socket: str = ""  # where lanes are fetched; empty: lanes.sock in `dir`
    lease_uids: list[Annotated[int, msgspec.Meta(ge=0)]] = field(default_factory=list)  # beside the kernel's own, and 0

    hang_grace_s: Seconds = 5.0  # for a worker to come back after a call's deadline, or to look at calls that wait
    drain_grace_s: Seconds = 30.0  # for a container that leaves: nothing has moved for so long, and it is ended

    heartbeat_s: Seconds = 1.0  # until the switchboard says
    footprint_period_s: Seconds = 5.0
    close_grace_s: Seconds = 5.0  # for workers to end when the kernel ends, or after a load that failed
    exit_report_timeout_s: Seconds = 0.5  # how long to wait for the zygote to say how a worker ended

    log_mb_max: Positive = 16  # kept of the log of a container, or of a zygote
    log_files_max: Positive = 64  # logs kept of containers and zygotes that are gone

    batch_max: Positive = 256  # messages read in one turn of the loop
    outbox_max: Positive = 4096  # control messages that wait for the switchboard


def load_config(path: Path) -> KernelConfig:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds a value that cannot be used.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    unknown = sorted(set(raw) - set(KernelConfig.__struct_fields__))
    if unknown:
        known = ", ".join(KernelConfig.__struct_fields__)
        raise ConfigError(f"{path}: unknown key {', '.join(unknown)} (known: {known})")
    try:
        config = msgspec.convert(raw, KernelConfig)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    check_config(config)
    return config


def check_config(config: KernelConfig) -> None:
    """Raise ConfigError for what a type cannot say."""
    try:
        check_endpoint(config.switchboard)
    except InvalidInput as exc:
        raise ConfigError(f"switchboard: {exc.message}") from exc
    for key in ("lane_ring_entries", "lease_ring_entries"):
        entries = getattr(config, key)
        if entries & (entries - 1):
            raise ConfigError(f"{key} = {entries}: expected a power of two")
    if config.lease_half_mb > config.lease_half_mb_max:
        raise ConfigError(f"lease_half_mb = {config.lease_half_mb}: more than lease_half_mb_max")
    if isinstance(config.devices, str) and config.devices != ALL_DEVICES:
        raise ConfigError(f'devices = {config.devices!r}: expected "{ALL_DEVICES}" or a list of ids')
    if not config.dir:
        raise ConfigError("dir is empty: name a directory for logs")
    _check_path("lease_socket", lane_socket(config), lane_socket(config))
    for module in config.preload:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"preload: {module!r} is not the name of a module")


def _check_path(key: str, value: str, path: str) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_NBYTES_MAX:
        raise ConfigError(f"{key} = {value!r}: a socket's path has at most {SOCKET_PATH_NBYTES_MAX} bytes")


def lane_socket(config: KernelConfig) -> str:
    """Where callers fetch their lanes: an absolute path, for they run elsewhere."""
    return str(Path(config.lease_socket or Path(config.dir) / LANES_SOCKET).absolute())


def node_name(config: KernelConfig) -> str:
    """The name under which this node registers."""
    return config.node or socket.gethostname()[:64] or "node"
