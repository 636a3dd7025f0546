"""The whole demo, as a newcomer runs it: its answers, its end, and what it leaves behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

pytestmark = [pytest.mark.system, pytest.mark.torch]

DEMO_TIMEOUT_S = 110.0
END_TIMEOUT_S = 15.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its own folder. Short, because a socket's path is at most 107 bytes long."""
    path = Path(tempfile.mkdtemp(prefix="hx-"))
    yield path
    shutil.rmtree(path)


class Demo:
    """A running demo."""

    def __init__(self, script: Path, folder: Path, **environment: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            env={**os.environ, "TMPDIR": str(folder), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._process:
            self._process.kill()

    def wait_for(self, text: str) -> None:
        """Read what the demo says until it says `text`; pytest's own timeout bounds this."""
        assert self._process.stdout is not None
        heard = []
        for line in self._process.stdout:
            heard.append(line)
            if text in line:
                return
        pytest.fail(f"the demo ended without {text!r}:\n{''.join(heard)}")

    def send(self, signal_number: int) -> None:
        self._process.send_signal(signal_number)

    def end(self) -> tuple[int, str]:
        """Exit status and what was said."""
        output, _ = self._process.communicate(timeout=DEMO_TIMEOUT_S)
        return self._process.returncode, output

    def running(self) -> list[str]:
        """Processes that belong to this demo's node."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if f"{self._folder}/huterox-demo-" in command or str(self._folder) == process.environ().get("TMPDIR"):
                    found.append(f"{process.pid} {command}")
        return found


@pytest.mark.timeout(150)
def test_demo_gives_right_answers_evicts_and_leaves_nothing_running(demo_folder, folder):
    pictures = [demo_folder / "out" / name for name in ("page.png", "motorcycle.png")]
    for picture in pictures:
        picture.unlink(missing_ok=True)
    with Demo(demo_folder / "run.py", folder) as demo:
        status, said = demo.end()
        assert status == 0, said
        assert demo.running() == []
    assert list(folder.iterdir()) == []
    for line in (
        "speech from 0.4 s to 1.2 s",
        "> A kitten naps on the couch.",
        "> Region-based segmentation",
        "> YAMAHA",
        "hit, the model was resident",
        "lru victim",
        "what is resident may not leave",
        "it stays because it is pinned",
        "would help  unpinning",
        "come back   waiting does not help",
        "huterox ps",
        "done: every answer was checked",
    ):
        assert line in said
    assert len(re.findall(r"^ *\[.*\] +evict ", said, re.MULTILINE)) == 3
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 900


@pytest.mark.timeout(90)
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_demo_leaves_nothing_running(demo_folder, folder, signal_number):
    with Demo(demo_folder / "run.py", folder) as demo:
        demo.wait_for("calls who-speaks")
        demo.send(signal_number)
        status, said = demo.end()
        assert status == 130, said
        assert "nothing is left running" in said
        assert demo.running() == []
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(90)
def test_killed_demo_takes_its_node_with_it(demo_folder, folder):
    with Demo(demo_folder / "run.py", folder) as demo:
        demo.wait_for("calls who-speaks")
        demo.send(signal.SIGKILL)
        deadline_s = time.monotonic() + END_TIMEOUT_S
        while (left := demo.running()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert left == []


@pytest.mark.timeout(90)
def test_model_that_cannot_load_ends_the_demo_with_its_traceback(demo_folder, folder, tmp_path):
    package = tmp_path / "tokenizers"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this tokenizer is broken')")
    with Demo(demo_folder / "run.py", folder, PYTHONPATH=str(tmp_path)) as demo:
        status, said = demo.end()
        assert status == 1, said
        assert "the demo failed: ModelError" in said
        assert "this tokenizer is broken" in said
        assert demo.running() == []
    assert list(folder.iterdir()) == []
