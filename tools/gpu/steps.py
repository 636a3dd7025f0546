"""What is tried on a device: one function a step, each noting what it finds as it goes.

What a step says with `note` is kept even where the step does not come to its end. A step that raises has failed.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from node import Site, doubles, eventually, site

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1024 * 1024
SLACK_NBYTES: Final = 64 * MIB
RETURN_S: Final = 15.0
TURNS: Final = 4 if doubles() else 8
Note = Callable[[str, Any], None]


# Facts.


def facts(note: Note) -> None:
    """The machine, and whether its devices can be told apart and given to a process by their ids."""
    from huterox_bench.machine import machine_facts
    from huterox_kernel.shell.devices import Nvml

    note("machine", machine_facts())
    note("kernel", platform.release())
    note("memlock", resource.getrlimit(resource.RLIMIT_MEMLOCK))
    note("doubles", doubles())
    driver = Nvml()
    devices = driver.devices()
    note("devices", [{"id": device.id, "mb": device.nbytes // MIB, "name": device.name} for device in devices])
    assert devices, "NVML shows no device that can be given to a container"
    reading = driver.read(devices[0].id)
    note("free_mb", reading.free // MIB)
    note("processes", [[pid, held] for pid, held in reading.held.items()])
    driver.close()
    if not doubles():
        _note_torch(note, devices[0].id)


def _note_torch(note: Note, device: str) -> None:
    code = (
        "import json, torch; p = torch.cuda.get_device_properties(0); torch.zeros(1, device='cuda');"
        "print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.device_count(), p.name,"
        " p.total_memory >> 20, f'{p.major}.{p.minor}']))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    note("torch", (done.stdout or done.stderr[-1000:]).strip())
    assert done.returncode == 0, "torch does not find the device by the id that NVML gives it"


# Tests.


def tests(note: Note) -> None:
    """The tests that wait for a device; with the doubles the others of the same files."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    note("files", [str(path.relative_to(ROOT)) for path in files])
    which = "not gpu" if doubles() else "gpu"
    ini = Path(__file__).with_name("pytest.ini")
    command = [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={ROOT}", "-q", "-m", which, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    note("said", done.stdout[-4000:])
    note("closing_line", (done.stdout.strip().splitlines() or ["nothing"])[-1])
    assert done.returncode == 0, f"pytest ended with {done.returncode}: {done.stderr[-500:]}"


# NVML.


def nvml(note: Note) -> None:
    """What the driver accounts to a process beside what torch took, and when that is back after kill -9."""
    from huterox_kernel.shell.devices import Nvml

    driver = Nvml()
    device = driver.devices()[0].id
    mb = 2048
    rounds: list[dict[str, Any]] = []
    for _ in range(1 if doubles() else 3):
        before = driver.read(device)
        with _holder(mb, device) as (process, held):
            now = driver.read(device)
            listed = now.held.get(held["pid"])
            told: dict[str, Any] = {
                "torch_reserved_mb": held["reserved"] // MIB,
                "weights_mb": mb,
                "is_listed": held["pid"] in now.held,
                "listed_mb": None if listed is None else listed // MIB,
                "free_fell_by_mb": (before.free - now.free) // MIB,
                "others_listed": [pid for pid in now.held if pid != held["pid"]],
            }
            rounds.append(told)
            note("rounds", rounds)
            assert told["free_fell_by_mb"] >= mb, "the memory that a process has taken is not missing"
            process.kill()
            killed_s = time.monotonic()
        eventually(lambda held=held: held["pid"] not in driver.read(device).held, RETURN_S)
        told["left_the_list_after_s"] = round(time.monotonic() - killed_s, 3)
        eventually(lambda before=before: driver.read(device).free >= before.free - SLACK_NBYTES, RETURN_S)
        told["memory_back_after_s"] = round(time.monotonic() - killed_s, 3)
        note("rounds", rounds)
    note("context_mb", median(one["free_fell_by_mb"] - mb for one in rounds))
    note("memory_back_after_s", median(one["memory_back_after_s"] for one in rounds))


@contextmanager
def _holder(mb: int, device: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A process that holds so much, as a worker would, and what it says of itself."""
    code = (
        f"import json, sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); import models;"
        f" weights = models.Weights({mb}, 1); print(json.dumps(weights.held()), flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


# Paging.


def paging(note: Note) -> None:
    """Two models that do not fit together: called in turns, so that each call evicts the other one."""
    with _site(device_mb=20 * 1024) as made:
        note("device", made.await_device())
        names = ["first", "second"]
        services = [
            made.deploy(name, params={"mb": 12 * 1024, "number": number}, resources={"gpu_mb": 13 * 1024})
            for number, name in enumerate(names, 1)
        ]
        x = np.zeros(1024, np.float32)
        turns: list[dict[str, Any]] = []
        for turn in range(TURNS):
            which = turn % 2
            begun_s = time.monotonic()
            result = services[which].call("predict", timeout=60.0, x=x)["result"]
            took_s = time.monotonic() - begun_s
            assert (result == which + 1).all(), "a wrong answer"
            row = eventually(lambda name=names[which]: _measured(made, name), 10.0, made.logs)
            turns.append({"model": names[which], "call_s": round(took_s, 3), "device_mb": row["device_measured_mb"]})
            note("turns", turns)
            assert len(made.client.containers()) == 1, "both are there, where one has room"
        gone = [event for event in made.client.events(limit=1000) if event["kind"] in ("gone", "evict", "crash")]
        note("ends", [{"kind": event["kind"], "reason": event["reason"]} for event in gone])
        assert sum(event["kind"] == "evict" for event in gone) == len(turns) - 1
        late = [event["reason"] for event in gone if "was not back" in event["reason"]]
        assert not late, f"memory did not come back in time: {late}"
        note("median_call_s", median(turn["call_s"] for turn in turns[1:]))
        _note_pinned(note, made, services[1])


def _measured(made: Site, name: str) -> dict[str, Any] | None:
    row = made.container(name)
    return row if row is not None and row["device_measured_mb"] > 0 else None


def _note_pinned(note: Note, made: Site, service: Any) -> None:
    """Whether inputs that come by a lane lie in pinned memory."""
    x = np.zeros(MIB, np.float32)
    eventually(lambda: service.call("predict", x=x) and service.path == "lane", 20.0, made.logs)
    is_pinned = service.call("pinned", x=x)["result"]
    note("inputs_in_lanes_are_pinned", bool(is_pinned))
    assert doubles() or is_pinned, "the lane is not registered as pinned memory"


# Bandwidth.


def bandwidth(note: Note) -> None:
    """`huterox bench device`."""
    from huterox_bench.device.rows import copy_table
    from huterox_bench.device.suite import measure_device
    from huterox_bench.measure import Plan
    from huterox_bench.options import Options

    cuda = None
    if doubles():
        from cuda import Cuda

        cuda = Cuda()
    plan = Plan(0.1, 2) if doubles() else Plan(1.5, 5)
    with ExitStack() as stack:
        rows = measure_device(Options(plan), stack, lambda _: None, cuda)
    note("rows", [row.as_json() for row in rows])
    note("table", copy_table(rows))


# A fault.


def fault(note: Note) -> None:
    """From a call that finds no container to its answer, split into stages: a cold start with CUDA in it."""
    from huterox_bench.cold.warm import WarmStarts

    with _site() as made:
        for name, mb in (("small", 16), ("large", 4096)):
            made.deploy(name, params={"mb": mb, "number": 1}, resources={"gpu_mb": mb + 1024})
            _note_starts(note, name, WarmStarts(made.client, name, {"x": np.zeros(1024, np.float32)}), made)
        if not doubles():
            entry = _script(made.folder / "script.pt")
            made.deploy("script", entry=str(entry), runtime="torchscript", resources={"gpu_mb": 1024})
            _note_starts(note, "script", WarmStarts(made.client, "script", {"x": np.zeros((1, 64), np.float32)}), made)


def _note_starts(note: Note, name: str, starts: Any, made: Site) -> None:
    """The medians of a few starts; the first two, which teach the zygote what there is to import, do not count."""
    for _ in range(2):
        starts.start()
        starts.end()
    rows: list[dict[str, float]] = []
    for _ in range(2 if doubles() else 4):
        start = starts.start()
        rows.append({"call_s": start.call_s, "start_s": start.total_s, **start.timings_s})
        if name != "script":
            rows[-1] |= made.client.service(name).call("stages")
        starts.end()
        stages = {stage for row in rows for stage in row}
        note(name, {stage: round(median(row.get(stage, 0.0) for row in rows), 4) for stage in sorted(stages)})


def _script(path: Path) -> Path:
    import torch

    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()))
    scripted.save(str(path))
    return path


@contextmanager
def _site(device_mb: int = 0) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="hxg-") as folder, site(Path(folder) / "s", device_mb) as made:
        yield made


STEPS: Final = {"facts": (facts, 30), "tests": (tests, 75), "nvml": (nvml, 75), "paging": (paging, 100),
                "bandwidth": (bandwidth, 70), "fault": (fault, 100)}  # fmt: skip
"""Each with its seconds."""
