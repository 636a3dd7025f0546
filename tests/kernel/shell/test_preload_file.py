"""What zygotes have learned, over a restart of the kernel."""

from pathlib import Path

import pytest

from huterox_kernel.core.preloads import Learned
from huterox_kernel.shell.preload_file import load_preloads, save_preloads


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "preloads.json"
    known = {
        "": Learned(["scipy"], ["colorsys"], {"grpc": "it starts 3 threads"}, ["yolo 1"], "fp"),
        "/env/python": Learned(),
    }
    save_preloads(path, known)
    assert load_preloads(path) == known
    assert [file.name for file in tmp_path.iterdir()] == ["preloads.json"]


def test_the_first_start_has_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_preloads(tmp_path / "preloads.json") == {}
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 2, "interpreters": {}}', b'{"format": 1, "interpreters": {"": 5}}'],
)
def test_a_damaged_file_is_ignored_with_a_note(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "preloads.json"
    path.write_bytes(content)
    assert load_preloads(path) == {}
    assert f"{path} is ignored" in caplog.text


def test_a_name_that_is_none_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "preloads.json"
    save_preloads(path, {"": Learned(["os; import sys", "scipy"])})
    assert load_preloads(path)[""].modules == ["scipy"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    save_preloads(tmp_path / "file" / "preloads.json", {"": Learned(["scipy"])})
    assert "cannot be written: " in caplog.text
