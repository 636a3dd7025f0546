"""README's five minutes, word for word: what it says to write is written, what it says to run is run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.platform import Platform, eventually

import huterox

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text().split("## Five minutes of use")[1].split("\n## ")[0]
FENCED = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.strip().split("#")[0].split() for line in README.splitlines() if line.startswith("    huterox ")]
UP, *OTHERS = COMMANDS
FOLLOWS = ["top"]
"""Commands that go on until they are interrupted."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """What README starts, in directories of its own."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.delenv("HUTEROX_ENDPOINT", raising=False)
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            (folder / name).mkdir(mode=0o700)
            patched.setenv(name, str(folder / name))
        patched.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        for _, text in FENCED:
            if named := re.match(r"# (\w+\.py)\n", text):
                (folder / named[1]).write_text(text)
        (toml,) = [text for kind, text in FENCED if kind == "toml"]
        (folder / "plus.toml").write_text(toml)
        platform = Platform(folder / "XDG_RUNTIME_DIR" / "huterox", command=UP[1:])
        try:
            yield platform
        finally:
            platform.close()


def run(platform: Platform, command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=platform.environment)
    assert done.returncode == 0, (command, done.stderr, platform.log_tail())
    return done.stdout


@pytest.fixture(scope="module")
def said(platform: Platform) -> dict[str, str]:
    """The commands in their order, and what each one says."""
    assert shutil.which("huterox"), "the environment's commands are not on the PATH"
    return {command[1]: run(platform, command) for command in OTHERS if command[1] not in FOLLOWS}


def test_every_command_does_what_it_is_shown_for(said: dict[str, str]) -> None:
    assert said["call"].split() == ["sum", "42.0"]
    assert "plus" in said["ps"]
    assert {"deploy", "create", "load", "ready"} <= set(said["events"].split())
    assert "pinned adder" in said["pin"]
    assert "acme" in said["usage"]


def test_what_is_shown_from_python_prints_what_it_says(platform: Platform, said: dict[str, str]) -> None:
    del said  # the service is there
    program = "".join(text for kind, text in FENCED if kind == "python" and not text.startswith("# plus.py"))
    (platform.folder.parent / "program.py").write_text(program)
    lines = run(platform, [sys.executable, str(platform.folder.parent / "program.py")]).splitlines()
    promised = re.findall(r"print\(.*\)  # (.+)", program)
    assert promised[0] == lines[0]
    assert lines[1] == "[9. 9. 9. 9.]"
    assert lines[-1] == promised[-1]


def test_the_model_takes_no_more_memory_than_its_file_promises(platform: Platform, said: dict[str, str]) -> None:
    del said
    with huterox.connect() as client:
        rows = eventually(lambda: [row for row in client.containers() if row.get("footprint_measured_mb")])
        measured = client.service("adder")
        measured(x=measured.empty((1, 3, 640, 640), "float32"))
        eventually(lambda: client.containers()[0]["hits"] > rows[0]["hits"])
        (row,) = client.containers()
    assert 0 < row["footprint_measured_mb"] <= row["footprint_declared_mb"] == 64
