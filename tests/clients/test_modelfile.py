"""Model files: what is taken, and what is said of one that is wrong."""

from pathlib import Path

import pytest

import huterox
from huterox.modelfile import read_model

GOOD = """
name = "vad"
version = "1"
algorithm = "speech"
runtime = "python"
entry = "models/vad.py:Vad"
device = "cpu"
idempotent = false
max_batch = 1
max_delay_ms = 0
services_per_container = 10
idle_timeout_s = 600
interpreter = ""
[params]
threshold = 0.5
[resources]
host_mb = 300
gpu_mb = 0
[inputs.audio]
dtype = "float32"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vad.toml"
    path.write_text(text)
    return path


def test_the_documented_model_file_is_taken(tmp_path):
    model = read_model(write(tmp_path, GOOD))
    assert model["name"] == "vad"
    assert model["params"] == {"threshold": 0.5}
    assert model["resources"] == {"host_mb": 300}
    assert model["inputs"] == {"audio": {"dtype": "float32"}}
    assert model["source_dir"] == str(tmp_path)


def test_a_relative_path_still_gives_an_absolute_directory(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert read_model("vad.toml")["source_dir"] == str(tmp_path)


def test_a_mapping_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_model({"name": "m", "entry": "a.py:A"})["source_dir"] == str(tmp_path)
    assert read_model({"name": "m", "entry": "a.py:A", "source_dir": "sub"})["source_dir"] == str(tmp_path / "sub")
    assert read_model({"name": "m", "entry": "a.py:A", "source_dir": "/abs"})["source_dir"] == "/abs"


def test_reading_a_mapping_leaves_it_as_it_was():
    model = {"name": "m", "entry": "a.py:A", "max_batch": 1}
    read_model(model)
    assert model == {"name": "m", "entry": "a.py:A", "max_batch": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_bach = 1", r"vad\.toml: unknown key max_bach; did you mean max_batch\?"),
        ("zebra = 1", r"unknown key zebra; known are algorithm, device, entry"),
        ("resources.host = 1", r"unknown key resources\.host; did you mean resources\.host_mb\?"),
        ("inputs.x.dtyp = 'float32'", r"unknown key inputs\.x\.dtyp; did you mean inputs\.x\.dtype\?"),
        ("version = 1", r"version: expected str, got int"),
        ("resources.host_mb = '1'", r"resources\.host_mb: expected int, got str"),
        ("resources.host_mb = -1", r"resources\.host_mb: expected int >= 0"),
        ("resources = 3", r"resources: expected object, got int"),
        ("device = 'tpu'", r"device: invalid enum value 'tpu'"),
        ("runtime = 'torch-export'", r"'torch-export' is not available yet"),
        ("max_batch = 8", r"max_batch: batching is not available yet; leave it out or set it to 1"),
        ("max_delay_ms = 5", r"max_delay_ms: batching is not available yet"),
        ("max_batch = true", r"max_batch: "),
        ("params.day = 2024-01-01", r"a value of type date is not carried"),
        ("inputs.x.shape = [1, -2]", r"inputs"),
        ("entry = ''", r"entry: expected str of length >= 1"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(tmp_path, line, said):
    entry = "" if line.startswith("entry") else "entry = 'a.py:A'"
    text = "\n".join([line, entry, "name = 'vad'"])
    with pytest.raises(huterox.InvalidInput, match=said) as caught:
        read_model(write(tmp_path, text))
    assert "vad.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"entry": "a.py:A"}, "missing required field name"),
        ({"name": "m"}, "missing required field entry"),
        ({"name": "", "entry": "a"}, "name: expected str of length >= 1"),
        ({"name": "m" * 129, "entry": "a"}, "name: expected str of length <= 128"),
        ({"name": "m", "entry": "a", "params": {"x": object()}}, "not carried"),
        ({"name": "m", "entry": "a", "params": {1: 2}}, "a map key must be text"),
        ({"name": "m", "entry": "a", "source_dir": 3}, "source_dir: expected str"),
        ({1: 2}, "unknown key 1"),
    ],
)
def test_a_wrong_mapping_is_told(model, said):
    with pytest.raises(huterox.InvalidInput, match=said) as caught:
        read_model(model)
    assert str(caught.value).startswith("the model: ")


@pytest.mark.parametrize("content", [b"name = ", b'name = "m"\nname = "n"', b"\xff\xfe", b"\x00"])
def test_a_file_that_is_no_toml_is_told_with_its_name(tmp_path, content):
    path = tmp_path / "m.toml"
    path.write_bytes(content)
    with pytest.raises(huterox.InvalidInput, match=r"m\.toml: is no TOML"):
        read_model(path)


def test_a_file_that_cannot_be_read_is_told_with_its_name(tmp_path):
    with pytest.raises(huterox.InvalidInput, match=r"none\.toml: cannot be read: No such file"):
        read_model(tmp_path / "none.toml")
    with pytest.raises(huterox.InvalidInput, match="cannot be read: Is a directory"):
        read_model(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(huterox.InvalidInput, match="at most"):
        read_model(path)


@pytest.mark.parametrize("model", [None, 3, ["name"]], ids=repr)
def test_what_is_no_model_at_all_is_told(model):
    with pytest.raises(huterox.InvalidInput, match="a path or a mapping"):
        read_model(model)
