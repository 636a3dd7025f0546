import tomllib

import msgspec
import numpy as np
import pytest
from PIL import Image

from huterox_wire.nodes import ModelSpec


def test_recording_is_ten_seconds_of_one_channel_at_16_khz(inputs):
    recording = inputs.recording()
    assert recording.rate_hz == 16_000
    assert recording.length_s == pytest.approx(10, abs=0.1)
    assert recording.audio.dtype == np.float32
    assert 0.1 < np.abs(recording.audio).max() <= 1


@pytest.mark.parametrize("name", ["page", "motorcycle"])
def test_photographs_are_colour_arrays(inputs, name):
    image = getattr(inputs, name)()
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.std() > 20


def test_missing_package_is_named_with_what_helps(inputs):
    with pytest.raises(FileNotFoundError, match=r"no_such_package is not installed.*make env"):
        inputs._package_folder("no_such_package")


@pytest.mark.parametrize("name", ["vad", "embedder", "reader"])
def test_model_file_is_valid_and_its_entry_exists(demo_folder, name):
    folder = demo_folder / "models"
    spec = msgspec.convert(tomllib.loads((folder / f"{name}.toml").read_text()), ModelSpec)
    assert spec.name == name
    path, _, class_name = spec.entry.partition(":")
    assert f"class {class_name}" in (folder / path).read_text()


def test_timeline_marks_speech_over_a_ruler_of_seconds(show):
    cells, ruler = show.timeline(np.array([[1.0, 2.0]]), length_s=4.0, width=20).split("\n")
    assert cells == ".....#####.........."
    assert ruler == "|0 s      |2 s"


def test_boxes_are_drawn_into_a_picture_beside_their_texts(show, tmp_path):
    image = np.full((100, 200, 3), 255, np.uint8)
    boxes = np.array([[[10, 10], [100, 10], [100, 40], [10, 40]]], np.float32)
    show.save_boxes(tmp_path / "out" / "boxes.png", image, boxes, ["HELLO"], np.array([0.98]))
    with Image.open(tmp_path / "out" / "boxes.png") as picture:
        assert picture.width > 900
        assert len(picture.getcolors(maxcolors=1 << 20)) > 2


def test_a_picture_without_boxes_is_saved_too(show, tmp_path):
    show.save_boxes(tmp_path / "empty.png", np.zeros((10, 20, 3), np.uint8), np.empty((0, 4, 2)), [], np.empty(0))
    assert (tmp_path / "empty.png").exists()
