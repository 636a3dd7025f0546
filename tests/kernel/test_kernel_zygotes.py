"""Real zygotes, in an environment of their own: what models import is there when the next one is loaded."""

import os
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from huterox_kernel.core.preloads import Learned
from huterox_kernel.shell.preload_file import load_preloads, save_preloads
from huterox_wire.nodes import Resources

from .conftest import Switchboard, descendants

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

MIB = 1 << 20
LARGE_MB = 200
A, B, C, D = (1 << 32 | number for number in range(1, 5))
SLOW = "import os, time\nIMPORTED_BY = os.getpid()\ntime.sleep(0.1)\n"
THREADS = "import threading, time\nthreading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n"
Uses = Callable[..., dict[str, Any]]


class Environment:
    """A Python environment: this one's packages, and what a test installs beside them."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        self.python = str(folder / "bin" / "python")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = folder / "lib" / version / "site-packages"
        ours = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
        lines = [f"import site; site.addsitedir({path!r})" for path in ours]
        (self.packages / "theirs.pth").write_text("\n".join(lines) + "\n")

    def install(self, name: str, code: str = "") -> None:
        (self.packages / f"{name}.py").write_text(SLOW + code)


@pytest.fixture
def environment(folder: Path) -> Environment:
    return Environment(folder / "env")


@pytest.fixture
def uses(switchboard: Switchboard, environment: Environment) -> Uses:
    """Load a model that imports these modules; which of them its zygote had already."""

    def load(container: int, *modules: str, entry: str = "library.py:Uses", **spec: Any) -> dict[str, Any]:
        params = {"modules": list(modules), **spec.pop("params", {})}
        switchboard.created(container, entry, interpreter=environment.python, params=params, **spec)
        result: dict[str, Any] = switchboard.result(container)
        return result

    return load


def start(switchboard: Switchboard, **settings: Any) -> subprocess.Popen[bytes]:
    return switchboard.start(preload=[], **settings)


def zygotes(process: subprocess.Popen[bytes], environment: Environment) -> list[psutil.Process]:
    """Those of the environment's interpreter."""
    found = []
    for child in descendants(process.pid):
        try:
            if child.name() == "hx:zygote" and environment.python in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def has_ended(process: psutil.Process) -> bool:
    """Whether all of it has been taken down, its descriptors too."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def learned(switchboard: Switchboard, environment: Environment) -> Learned:
    return load_preloads(switchboard.folder / "kernel" / "preloads.json").get(environment.python, Learned())


def settle(switchboard: Switchboard, environment: Environment, *modules: str) -> None:
    """Until a zygote has these."""
    switchboard.until(lambda: set(modules) <= set(learned(switchboard, environment).modules))


def start_with_successor(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """The kernel, and its first zygote: that has the worker of A, and a successor has learned its library."""
    environment.install("slow_library")
    process = start(switchboard)
    uses(A, "slow_library")
    (predecessor,) = zygotes(process, environment)
    settle(switchboard, environment, "slow_library")
    return process, predecessor


def test_the_second_load_finds_preloaded_what_the_first_has_imported(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("slow_library")
    start(switchboard)
    assert uses(A, "slow_library") == {"slow_library": False}
    settle(switchboard, environment, "slow_library")
    assert uses(B, "slow_library") == {"slow_library": True}
    assert switchboard.result(A) == {"slow_library": False}  # goes on as it was


def test_no_successor_is_started_where_its_memory_has_no_room(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("slow_library")
    process = start(switchboard, host_mb=40, footprint_period_s=0.1)
    uses(A, "slow_library", resources=Resources(host_mb=20))
    switchboard.heartbeats.clear()
    switchboard.until(lambda: len(switchboard.heartbeats) >= 40)  # it looks once a second
    assert len(zygotes(process, environment)) == 1
    assert learned(switchboard, environment).modules == []


def test_a_successor_is_promised_what_its_new_modules_take_before_it_takes_it(
    switchboard: Switchboard, environment: Environment
) -> None:
    environment.install("large_library", f"HELD = b'x' * {LARGE_MB << 20}\n")
    process = start(switchboard, host_mb=1000, footprint_period_s=0.1)
    switchboard.created(A, "imports_large.py:Model", interpreter=environment.python)
    before = switchboard.heartbeats[-1].base_bytes
    switchboard.heartbeats.clear()
    grown = before + LARGE_MB * MIB
    switchboard.until(lambda: any(beat.base_bytes >= grown for beat in switchboard.heartbeats))
    assert len(zygotes(process, environment)) == 1  # it is not there yet
    settle(switchboard, environment, "large_library")
    switchboard.heartbeats.clear()
    switchboard.until(lambda: len(switchboard.heartbeats) >= 3)
    assert all(beat.base_bytes < grown + 64 * MIB for beat in switchboard.heartbeats[1:])  # and is not counted twice


def test_no_successor_is_started_where_its_new_modules_have_no_room(
    switchboard: Switchboard, environment: Environment
) -> None:
    environment.install("large_library", f"HELD = b'x' * {LARGE_MB << 20}\n")
    process = start(switchboard, host_mb=2 * LARGE_MB, footprint_period_s=0.1)
    switchboard.created(A, "imports_large.py:Model", interpreter=environment.python)
    switchboard.heartbeats.clear()
    switchboard.until(lambda: len(switchboard.heartbeats) >= 40)  # it looks once a second
    assert len(zygotes(process, environment)) == 1
    assert learned(switchboard, environment).modules == []


def test_the_predecessor_lives_until_its_last_worker_has_ended(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    process, predecessor = start_with_successor(switchboard, environment, uses)
    assert predecessor in zygotes(process, environment)
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    switchboard.until(lambda: predecessor not in zygotes(process, environment))
    assert len(zygotes(process, environment)) == 1
    assert uses(B, "slow_library") == {"slow_library": True}


def test_a_predecessor_that_is_killed_takes_its_own_workers_alone(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    _, predecessor = start_with_successor(switchboard, environment, uses)
    uses(B, "slow_library")
    os.kill(predecessor.pid, signal.SIGKILL)
    assert switchboard.event(A, "gone").cause == "crashed"
    assert switchboard.result(B) == {"slow_library": True}
    assert uses(C, "slow_library") == {"slow_library": True}


def test_a_successor_that_is_killed_is_started_again_by_the_next_load(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    process, predecessor = start_with_successor(switchboard, environment, uses)
    (successor,) = [zygote for zygote in zygotes(process, environment) if zygote != predecessor]
    os.kill(successor.pid, signal.SIGKILL)
    switchboard.until(lambda: has_ended(successor))
    assert uses(B, "slow_library") == {"slow_library": True}
    assert switchboard.result(A) == {"slow_library": False}


def test_a_restart_is_warm_at_once(switchboard: Switchboard, environment: Environment, uses: Uses) -> None:
    environment.install("slow_library")
    process = start(switchboard)
    uses(A, "slow_library")
    settle(switchboard, environment, "slow_library")
    process.terminate()
    process.wait(timeout=30)
    switchboard.registrations.clear()
    start(switchboard)
    assert uses(B, "slow_library") == {"slow_library": True}


def test_what_starts_threads_or_processes_or_leaves_files_open_is_left_to_the_workers(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("threaded", THREADS)
    environment.install("opener", "FILE = open('/dev/null')\n")
    environment.install("forker", "PID = os.fork()\n")  # its child comes back from the import
    environment.install("slow_library")
    process = start(switchboard)
    uses(A, "threaded", "opener", "forker", "slow_library")
    settle(switchboard, environment, "slow_library")
    assert uses(B, "threaded", "opener", "forker", "slow_library") == {
        "threaded": False,
        "opener": False,
        "forker": False,
        "slow_library": True,
    }
    assert learned(switchboard, environment).skipped == {
        "threaded": "it starts 1 threads",
        "opener": "it leaves /dev/null open",
        "forker": "it starts 1 processes",
    }
    assert len(zygotes(process, environment)) == 2


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_module_that_ends_its_zygote_is_left_to_the_workers(
    switchboard: Switchboard, environment: Environment, uses: Uses, end: str
) -> None:
    only_in_zygotes = "if open('/proc/self/comm').read().strip() == 'hx:zygote':\n    "
    environment.install("killer", f"{only_in_zygotes}{end}\n")
    environment.install("slow_library")
    start(switchboard)
    uses(A, "slow_library", "killer")
    settle(switchboard, environment, "slow_library")
    assert uses(B, "slow_library", "killer") == {"slow_library": True, "killer": False}
    assert list(learned(switchboard, environment).skipped) == ["killer"]
    assert switchboard.result(A) == {"slow_library": False, "killer": False}


def test_a_learned_module_that_has_become_deadly_does_not_break_a_restart(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("slow_library")
    environment.install("killer", "if open('/proc/self/comm').read().strip() == 'hx:zygote':\n    os._exit(3)\n")
    (switchboard.folder / "kernel").mkdir()
    known = {environment.python: Learned(["killer", "slow_library"])}
    save_preloads(switchboard.folder / "kernel" / "preloads.json", known)
    start(switchboard)
    assert uses(A, "killer", "slow_library") == {"killer": False, "slow_library": True}


LOOPS = "if open('/proc/self/comm').read().strip() == 'hx:zygote':\n    while True:\n        pass\n"
EVIL = {
    "looping": LOOPS,
    "killing": "if open('/proc/self/comm').read().strip() == 'hx:zygote':\n    os.kill(os.getpid(), 9)\n",
    "moving": "os.chdir('/')\n",
}


def test_configured_modules_that_no_zygote_survives_are_told_by_name_and_left_out(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    for name, code in {**EVIL, "tame": ""}.items():
        environment.install(name, code)
    switchboard.start(preload=[*EVIL, "tame"], preload_timeout_s=3.0)
    switchboard.create(A, "library.py:Uses", interpreter=environment.python, params={"modules": ["tame"]})
    switchboard.event(A, "ready")
    switchboard.until(lambda: all(f"{name} is not preloaded: " in switchboard.log() for name in EVIL))
    switchboard.until(lambda: "has tame preloaded; left out: looping: " in switchboard.log())
    assert uses(B, "tame") == {"tame": True}
    assert uses(C, *EVIL, "tame") == {**dict.fromkeys(EVIL, False), "tame": True}
    assert "tame" in switchboard.result(A)


def test_a_module_that_hangs_everywhere_fails_the_model_that_needs_it_alone(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    """And nobody waits until it is found out: a zygote that imports nothing takes the orders."""
    environment.install("looping", "while True:\n    pass\n")
    environment.install("tame")
    switchboard.start(preload=["looping", "tame"], preload_timeout_s=12.0)
    assert uses(A, "tame", load_timeout_s=11.0) == {"tame": False}
    params = {"modules": ["looping"]}
    switchboard.create(B, "library.py:Uses", interpreter=environment.python, params=params, load_timeout_s=1.0)
    ends = switchboard.until(lambda: [event for event in switchboard.events if event.cause])
    assert [(event.container, event.cause) for event in ends] == [(B, "load_timeout")]
    assert ends[0].reason.startswith("not ready after 1 s, in stage ")
    assert switchboard.result(A) == {"tame": False}


def test_a_learned_module_that_hangs_does_not_hold_up_a_restart(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("looping", LOOPS)
    environment.install("tame")
    (switchboard.folder / "kernel").mkdir()
    known = {environment.python: Learned(["looping", "slow_library"])}
    save_preloads(switchboard.folder / "kernel" / "preloads.json", known)
    switchboard.start(preload=["tame"], preload_timeout_s=3.0)
    assert "tame" in uses(A, "tame")
    switchboard.until(lambda: "looping" in learned(switchboard, environment).skipped)
    assert uses(B, "looping") == {"looping": False}


def test_workers_of_one_zygote_share_no_random_numbers_and_none_ends_what_is_the_others(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("generators", (Path(__file__).parent / "libraries" / "generators.py").read_text())
    start(switchboard)
    uses(A, "generators")
    settle(switchboard, environment, "generators")
    for container in (B, C):
        assert uses(container, "generators") == {"generators": True}
    one, other = switchboard.result(B, "draw"), switchboard.result(C, "draw")
    assert one["folder"] == other["folder"]
    try:
        assert [name for name, value in one["drawn"].items() if other["drawn"][name] == value] == []
        assert one["fixed"] == other["fixed"] == switchboard.result(A, "draw")["fixed"]
        switchboard.tell_close(B)
        switchboard.event(B, "gone")
        assert switchboard.result(C, "draw")["is_there"]
    finally:
        Path(one["folder"]).rmdir()


def test_what_lies_beside_a_model_is_not_preloaded_and_wins_over_what_is(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("shared_name", "WHOSE = 'the library'\n")
    models = switchboard.folder / "models"
    models.mkdir()
    (models / "own.py").write_text(SLOW)
    source = Path(__file__).parent / "models" / "library.py"
    (models / "library.py").write_text(source.read_text())
    start(switchboard)
    uses(A, "own", "shared_name", source_dir=str(models))
    settle(switchboard, environment, "shared_name")
    assert learned(switchboard, environment).modules == ["shared_name"]
    (models / "shared_name.py").write_text(SLOW + "WHOSE = 'the model'\n")
    assert uses(B, "own", "shared_name", source_dir=str(models)) == {"own": False, "shared_name": False}
    assert switchboard.result(B, "whose") == {"result": ["", "the model"]}
    uses(C, "shared_name")
    assert switchboard.result(C, "whose") == {"result": ["the library"]}


def test_what_a_model_imports_under_environment_variables_of_its_own_is_not_preloaded(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("telling")
    environment.install("slow_library")
    start(switchboard)
    uses(A, "telling", params={"environment": {"TELLING_OFF": "1"}})
    switchboard.until(lambda: learned(switchboard, environment).skipped)
    uses(B, "telling", "slow_library")
    settle(switchboard, environment, "slow_library")
    assert uses(C, "telling", "slow_library") == {"telling": False, "slow_library": True}


@pytest.mark.parametrize(
    ("end", "cause"), [("raise RuntimeError('not after a fork')", "load_failed"), ("os._exit(3)", "crashed")]
)
def test_a_model_whose_library_does_not_survive_a_fork_is_loaded_without_what_was_learned(
    switchboard: Switchboard, environment: Environment, uses: Uses, end: str, cause: str
) -> None:
    environment.install("fork_hater", f"def use():\n    if os.getpid() != IMPORTED_BY:\n        {end}\n")
    environment.install("slow_library")
    start(switchboard)
    uses(A, "fork_hater", "slow_library")
    settle(switchboard, environment, "fork_hater", "slow_library")
    params = {"modules": ["fork_hater", "slow_library"]}
    switchboard.create(B, "library.py:Uses", interpreter=environment.python, params=params)
    switchboard.until(lambda: [e for e in switchboard.events if (e.container, e.what, e.cause) == (B, "gone", cause)])
    assert uses(C, "fork_hater", "slow_library") == {"fork_hater": False, "slow_library": False}
    assert uses(D, "slow_library", name="another") == {"slow_library": True}
    assert learned(switchboard, environment).plain == ["model 1"]


def test_a_model_that_has_never_loaded_is_not_taken_for_a_librarys_victim(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("slow_library")
    start(switchboard)
    uses(A, "slow_library")
    settle(switchboard, environment, "slow_library")
    switchboard.create(B, "plain.py:NoLoad", interpreter=environment.python, name="broken")
    switchboard.until(lambda: [event for event in switchboard.events if event.cause == "load_failed"])
    assert uses(C, "slow_library") == {"slow_library": True}
    assert learned(switchboard, environment).plain == []


def test_nothing_is_learned_where_that_is_switched_off(
    switchboard: Switchboard, environment: Environment, uses: Uses
) -> None:
    environment.install("slow_library")
    (switchboard.folder / "kernel").mkdir()
    path = switchboard.folder / "kernel" / "preloads.json"
    save_preloads(path, {environment.python: Learned(["slow_library"])})
    before = path.read_bytes()
    start(switchboard, preload_learned=False)
    assert uses(A, "slow_library") == {"slow_library": False}
    assert uses(B, "slow_library") == {"slow_library": False}
    assert path.read_bytes() == before
