"""Where daemons listen and connect: unix sockets, and TCP on this host alone.

Nobody is asked who he is yet, so an endpoint that other hosts reach would give the platform to all of them.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Final

from huterox_wire.errors import InvalidInput

IPC_PATH_NBYTES_MAX: Final = 107
"""What a unix socket's address holds (sun_path), less its closing zero."""


def check_endpoint(endpoint: str) -> None:
    """Raise InvalidInput unless it is ipc with a path that a unix socket's address holds, or tcp on this host."""
    scheme, separator, address = endpoint.partition("://")
    if not separator or scheme not in ("ipc", "tcp") or not address:
        raise InvalidInput(f"endpoint {endpoint!r}: expected ipc://PATH or tcp://HOST:PORT")
    if scheme == "tcp":
        _check_tcp(endpoint, address)
        return
    nbytes = len(address.encode(errors="surrogateescape"))
    if nbytes > IPC_PATH_NBYTES_MAX:
        raise InvalidInput(
            f"the socket path {address!r} has {nbytes} bytes; a unix socket takes at most {IPC_PATH_NBYTES_MAX} bytes",
            need=nbytes,
            limit=IPC_PATH_NBYTES_MAX,
        )


def hidden_path(path: Path) -> Path:
    """The name of a switchboard's socket while it lets nobody new in. No longer: a socket's path has a limit."""
    return path.with_name(path.name[:-1] + "!")


def _check_tcp(endpoint: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise InvalidInput(f"endpoint {endpoint!r} has no port from 1 to 65535; expected tcp://HOST:PORT")
    if not _is_loopback(host):
        raise InvalidInput(
            f"endpoint {endpoint!r}: only this host is served over TCP (tcp://127.0.0.1:{port}), or ipc://PATH; "
            "other hosts come with identities, in a later version: until then whoever connects is the operator"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:  # a name, an interface, or all of them
        return False
