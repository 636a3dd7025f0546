"""Property tests draw the same in every run, however slow the machine is; no module leaves a process behind."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "huterox", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("huterox")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells have it ignored by what they start in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children would inherit that, and not end by Ctrl-C

TESTS = Path(__file__).parent
FOLDERS_ALONE = [TESTS / "fault", TESTS / "system"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` looks for what runs alone in these folders only: to collect all takes long."""
    for item in items:
        if item.get_closest_marker("alone") and not any(map(item.path.is_relative_to, FOLDERS_ALONE)):
            raise pytest.UsageError(f"{item.nodeid} is marked `alone`, and `make test` does not look there for it")


def pytest_collection_finish() -> None:
    """What thousands of collected tests hold would be looked through by each `gc.collect()` of a test, for 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_child_left() -> Iterator[None]:
    """Fails a module that leaves a child of the tests' process, ended or not: later tests would measure and find it."""
    before = set(psutil.Process().children())
    yield
    left = [child for child in psutil.Process().children() if child not in before and not _is_resource_tracker(child)]
    assert not left, f"child processes are left: {[(child, _command(child)) for child in left]}"


def _is_resource_tracker(child: psutil.Process) -> bool:
    """`multiprocessing` starts one, and keeps it for the life of its process."""
    return any("multiprocessing.resource_tracker" in word for word in _command(child))


def _command(child: psutil.Process) -> list[str]:
    try:
        return list(child.cmdline())
    except psutil.Error:  # it has ended
        return []
