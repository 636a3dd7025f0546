"""Processes as the system shows them."""

import os
import signal
import subprocess
import sys

import pytest

from huterox_kernel.shell import probes, processes

pytestmark = pytest.mark.system


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)


def test_identity_differs_between_processes_and_stays_for_one() -> None:
    assert processes.identity_of(os.getpid()) == processes.identity_of(os.getpid())
    assert processes.identity_of(os.getpid()) != processes.identity_of(os.getppid())


def test_identity_of_nobody_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        processes.identity_of(2**22 + 1)


def test_pss_is_measured_and_zero_for_somebody_else_with_the_same_pid() -> None:
    identity = processes.identity_of(os.getpid())
    assert processes.pss_bytes(identity) > 1024 * 1024
    assert processes.pss_bytes(identity._replace(start_ticks=1)) == 0


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
        ("import sys; sys.exit(3)", "exited with code 3"),
        ("pass", "exited with code 0"),
    ],
)
def test_how_a_process_ended_is_told(code: str, how: str) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    pidfd = os.pidfd_open(pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    status = processes.reap_by_pidfd(pidfd)
    os.close(pidfd)
    assert status is not None
    assert processes.how_it_ended(status) == how


def test_a_process_that_lives_or_is_not_ours_is_not_reaped() -> None:
    with sleeper() as process:
        pidfd = os.pidfd_open(process.pid)
        assert processes.reap_by_pidfd(pidfd) is None
        assert process.pid in processes.children()
        processes.kill_by_pidfd(pidfd)
        os.close(pidfd)
    parent = os.pidfd_open(os.getppid())
    assert processes.reap_by_pidfd(parent) is None
    os.close(parent)


def test_killing_one_that_has_ended_is_no_error() -> None:
    with sleeper() as process:
        pidfd = os.pidfd_open(process.pid)
        process.send_signal(signal.SIGKILL)
    processes.kill_by_pidfd(pidfd)
    os.close(pidfd)
    processes.kill_group(process.pid)


def test_memory_of_the_node_is_plausible() -> None:
    assert 0 < probes.host_bytes_free() <= probes.host_bytes_total() * 2
    assert probes.oom_kill_count() >= 0
