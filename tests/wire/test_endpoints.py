"""Endpoints of daemons: unix sockets, and TCP on this host alone."""

import pytest

from huterox_wire.endpoints import IPC_PATH_NBYTES_MAX, check_endpoint
from huterox_wire.errors import InvalidInput


@pytest.mark.parametrize(
    "endpoint",
    [
        "ipc:///run/huterox/back.ipc",
        "ipc://" + "x" * IPC_PATH_NBYTES_MAX,
        "tcp://127.0.0.1:1",
        "tcp://127.1.2.3:65535",
        "tcp://[::1]:5555",
        "tcp://localhost:5555",
    ],
)
def test_what_is_reached_from_this_host_alone_is_taken(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5555",
        "tcp://0.0.0.0:5555",
        "tcp://[::]:5555",
        "tcp://10.0.0.5:5555",
        "tcp://192.168.1.1:5555",
        "tcp://eth0:5555",
        "tcp://lo:5555",
        "tcp://node1:5555",
        "tcp://localhost.example:5555",
        "tcp://127.0.0.1:0;10.0.0.5:5555",  # ZeroMQ's form with a source address
        "tcp://:5555",
        "tcp://[fe80::1%lo]:5555",
    ],
)
def test_what_other_hosts_may_reach_is_refused_and_says_when_it_comes(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="identities, in a later version"):
        check_endpoint(endpoint)


@pytest.mark.parametrize("port", ["", "*", "0", "65536", "-1", "1e3", "\u0661", "9" * 5000, "80/x"])
def test_port_is_a_number_that_can_be_found(port: str) -> None:
    with pytest.raises(InvalidInput, match="no port from 1 to 65535"):
        check_endpoint(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("endpoint", ["", "ipc://", "tcp://", "/tmp/x", "udp://127.0.0.1:5", "inproc://a", "ipc:/x"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected ipc://PATH or tcp://HOST:PORT"):
        check_endpoint(endpoint)


def test_path_that_no_socket_takes_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"108 bytes.*107"):
        check_endpoint("ipc://" + "x" * (IPC_PATH_NBYTES_MAX + 1))
