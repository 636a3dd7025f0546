"""Where the switchboard is: an argument, HUTEROX_ENDPOINT, or the directory that `huterox up` uses by default."""

import os
import socket
import stat
from pathlib import Path
from typing import Final

from huterox_wire.endpoints import IPC_PATH_NBYTES_MAX, hidden_path
from huterox_wire.errors import InvalidInput, Unavailable

SOCKET_NAME: Final = "switchboard.ipc"

_SCHEMES: Final = ("ipc://", "tcp://")
_PROBE_S: Final = 1.0


def default_directory() -> Path:
    """Where `huterox up` keeps its files unless it is told otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "huterox"
    return Path(f"/tmp/huterox-{os.getuid()}")


def find_endpoint(endpoint: str | None = None) -> str:
    """The endpoint to connect to.

    Raises:
        InvalidInput: no endpoint that a socket can be connected to.
    """
    endpoint = endpoint or os.environ.get("HUTEROX_ENDPOINT") or f"ipc://{default_directory()}/{SOCKET_NAME}"
    if not endpoint.startswith(_SCHEMES) or len(endpoint) == len(_SCHEMES[0]):
        raise InvalidInput(f"{endpoint!r} is no endpoint; expected ipc:///DIR/{SOCKET_NAME} or tcp://HOST:PORT")
    if endpoint.startswith("ipc://"):
        check_ipc_path(endpoint.removeprefix("ipc://"))
    return endpoint


def check_ipc_path(path: str) -> None:
    """Raise InvalidInput where a unix socket cannot have this path."""
    nbytes = len(os.fsencode(path))
    if nbytes > IPC_PATH_NBYTES_MAX:
        raise InvalidInput(
            f"the path of a unix socket has at most {IPC_PATH_NBYTES_MAX} bytes, this one has {nbytes}: {path}",
            need=nbytes,
            limit=IPC_PATH_NBYTES_MAX,
        )


def check_listening(endpoint: str) -> None:
    """Fail at once, where that can be known at once, if nobody listens at the endpoint. One that lets nobody new in may
    do so soon, and is waited for by whoever connects.

    Raises:
        Unavailable: with the endpoint that was tried and what to start.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, PermissionError, NotADirectoryError) as exc:
            if _is_full(endpoint):
                return
            raise no_switchboard(endpoint, exc.strerror or str(exc)) from exc
        except OSError:
            pass  # a full backlog, for one: the socket that really connects waits for it


def no_switchboard(endpoint: str, reason: str) -> Unavailable:
    """The error for an endpoint where no switchboard answers."""
    if _is_full(endpoint):
        return Unavailable(
            f"the switchboard at {endpoint} lets nobody new in: it has as many connections as it can have, or was"
            " killed while it had; try again once others have left",
            endpoint=endpoint,
        )
    return Unavailable(
        f"no switchboard answers at {endpoint} ({reason}); start one with `huterox up`,"
        " or name another with --endpoint or HUTEROX_ENDPOINT",
        endpoint=endpoint,
    )


def _is_full(endpoint: str) -> bool:
    """Whether a switchboard is there that lets nobody new in."""
    path = endpoint.removeprefix("ipc://")
    try:
        return path != endpoint and stat.S_ISSOCK(hidden_path(Path(path)).stat().st_mode)
    except (OSError, ValueError):
        return False
