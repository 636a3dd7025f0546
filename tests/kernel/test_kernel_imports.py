"""Where a model's module comes from, and that other processes find it there too."""

import shutil
from pathlib import Path

import pytest

from .conftest import MODELS, Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

A, B, C = (1 << 32 | number for number in range(1, 4))
SOURCE = MODELS / "spawning"


def test_processes_that_a_model_spawns_find_its_module(switchboard: Switchboard) -> None:
    switchboard.start(preload=[])
    switchboard.created(A, "spawning/model.py:Spawns")
    for way in ("spawn", "forkserver"):
        assert switchboard.result(A, way=way) == {"result": [3, 6]}
    assert switchboard.result(A, "process", way="spawn") == {"result": 3}
    assert switchboard.result(A, "other_program") == {"result": "Pair(one=5, other=6)"}
    file = str(SOURCE / "model.py")
    assert switchboard.result(A, "describes") == {
        "name": "spawning.model",
        "file": file,
        "argv": [file],
        "source": "def work(pair: Pair) -> Pair:",
        "hints": "<class 'int'>",
        "copied": 8,
    }


def test_so_they_do_where_no_import_leads_to_its_file(switchboard: Switchboard) -> None:
    folder = switchboard.folder / "models"
    folder.mkdir()
    (folder / "model.v2.py").write_text((SOURCE / "model.py").read_text().replace("from .helper", "from helper"))
    shutil.copy(SOURCE / "helper.py", folder)
    switchboard.start(preload=[])
    switchboard.created(A, "model.v2.py:Spawns", source_dir=str(folder))
    assert switchboard.result(A, "describes")["name"] == "huterox_model_model_v2"
    assert switchboard.result(A, "process", way="spawn") == {"result": 3}


def whose(folder: Path, name: str) -> str:
    """A model's folder, with a module of this name beside it that says whose it is."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(f"whose = {folder.name!r}\n")
    (folder / "model.py").write_text(
        f"import {name}\nclass Model:\n    def predict(self): return [{name}.whose, {name}.__file__]\n"
    )
    return str(folder)


def test_what_lies_beside_a_model_wins_or_the_model_is_told(switchboard: Switchboard) -> None:
    one, other, hiding = (switchboard.folder / name for name in ("one", "other", "hiding"))
    switchboard.start(preload=["packaging"])
    for container, folder in ((A, one), (B, other)):
        switchboard.created(container, "model.py:Model", source_dir=whose(folder, "packaging"), name=folder.name)
    for container, folder in ((A, one), (B, other)):
        assert switchboard.result(container) == {"result": [folder.name, str(folder / "packaging.py")]}
    switchboard.create(C, "model.py:Model", source_dir=whose(hiding, "numpy"))
    gone = switchboard.until(lambda: [event for event in switchboard.events if event.what == "gone"])[0]
    assert gone.cause == "load_failed"
    assert f"{hiding}/numpy.py has the name of a module that the worker itself needs: rename it" in gone.reason
