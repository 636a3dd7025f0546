"""What a worker and its zygote import: nothing that a fork must not carry, nothing heavy before it is wanted."""

import subprocess
import sys

import pytest


def imported_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["huterox_kernel.worker.zygote_loop", "huterox_kernel.worker.main"])
def test_a_worker_imports_no_sockets_of_zeromq_no_event_loop_and_no_torch(module: str) -> None:
    assert not {"zmq", "asyncio", "uvloop", "torch", "psutil"} & imported_by(module)


def test_the_zygote_imports_nothing_heavy_before_it_tells_what_it_imports() -> None:
    assert not {"numpy", "ml_dtypes", "huterox_shm.lane"} & imported_by("huterox_kernel.worker.zygote")
