"""The zygote's process alone: whatever an import does to it, its kernel learns which one it was."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from huterox_kernel.worker import control
from huterox_kernel.worker.control import Decoder, Importing, Unfit, ZygoteReady
from huterox_kernel.worker.zygote import Arguments

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

PATIENCE_S = 40.0
SKIPPED = {
    "raises": ("raise RuntimeError('no,\\0\\ud800way')", "RuntimeError: no,"),
    "exits": ("import sys\nsys.exit('bye')", "SystemExit: bye"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "stops": ("raise GeneratorExit", "GeneratorExit"),
    "text": ("class Bad(Exception):\n    def __str__(self):\n        raise self\nraise Bad", "Bad"),
    "hungry": ("KEPT = [bytes(1 << 30) for _ in range(1 << 20)]", "MemoryError"),
}


class Zygote:
    """The process, as its kernel sees it."""

    def __init__(self, folder: Path, modules: list[str], learned: list[str]) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(PATIENCE_S)
        self._decode = Decoder(control.FromZygote)
        argv = Arguments(theirs.fileno(), os.getpid(), modules, learned).to_argv()
        environment = {**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "huterox_kernel.worker.zygote", *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )

    def heard(self) -> list[control.FromZygote]:
        """All that it says until it is ready or has ended."""
        messages: list[control.FromZygote] = []
        while (packet := control.receive(self._sock, self._decode)) is not None:
            messages.append(packet[0])
            if isinstance(packet[0], ZygoteReady | Unfit):
                break
        return messages

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._sock.close()


@pytest.fixture
def zygotes(tmp_path: Path) -> Iterator[list[Zygote]]:
    started: list[Zygote] = []
    yield started
    for zygote in started:
        zygote.close()


def start(zygotes: list[Zygote], folder: Path, code: str, *, learned: bool = False) -> Zygote:
    (folder / "evil.py").write_text(code + "\n")
    (folder / "tame.py").write_text("")
    zygotes.append(Zygote(folder, *([], ["evil", "tame"]) if learned else (["evil", "tame"], [])))
    return zygotes[-1]


@pytest.mark.parametrize("learned", [False, True])
def test_what_leaves_the_process_unfit_is_told_by_name(tmp_path: Path, zygotes: list[Zygote], learned: bool) -> None:
    messages = start(zygotes, tmp_path, "import os\nos.chdir('/')", learned=learned).heard()
    assert messages[-2:] == [Importing("evil"), Unfit("evil", "it changes the working directory to /")]


def test_what_cannot_be_imported_is_skipped_whatever_it_raises(tmp_path: Path, zygotes: list[Zygote]) -> None:
    for name, (code, _) in SKIPPED.items():
        (tmp_path / f"evil_{name}.py").write_text(code + "\n")
    (tmp_path / "tame.py").write_text("")
    zygotes.append(Zygote(tmp_path, [*(f"evil_{name}" for name in SKIPPED), "tame"], []))
    *_, ready = zygotes[-1].heard()
    assert isinstance(ready, ZygoteReady)
    assert ready.modules == ["tame"]
    for name, (_, reason) in SKIPPED.items():
        assert ready.skipped[f"evil_{name}"].startswith(reason)


@pytest.mark.parametrize(
    "code", ["import os\nos._exit(3)", "import os\nos.kill(os.getpid(), 9)", "import os\nos.closerange(0, 99999)"]
)
def test_one_that_ends_has_said_what_it_was_importing(tmp_path: Path, zygotes: list[Zygote], code: str) -> None:
    assert start(zygotes, tmp_path, code).heard() == [Importing("evil")]  # and nothing more


def test_an_import_that_forks_and_returns_twice_leaves_one_zygote(tmp_path: Path, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, tmp_path, "import os\nif pid := os.fork():\n    os.waitpid(pid, 0)")
    messages = zygote.heard()
    assert messages[:-1] == [Importing("evil"), Importing("tame"), Importing(""), Importing("")]
    assert isinstance(messages[-1], ZygoteReady)
    assert psutil.Process(zygote.process.pid).children() == []


def test_what_no_forked_process_survives_is_told(tmp_path: Path, zygotes: list[Zygote]) -> None:
    hook = "os.register_at_fork(after_in_child=lambda: os._exit(0))"
    messages = start(zygotes, tmp_path, f"import os, time\n{hook}\ntime.sleep(0.01)").heard()
    assert messages == [Importing("evil"), Unfit("evil", "a process that is forked after it ends at once")]
