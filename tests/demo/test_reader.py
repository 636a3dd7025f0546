import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch  # not torch itself, but the same heavy extra


@pytest.fixture(scope="module")
def reader(reader_module: ModuleType) -> Any:
    model = reader_module.Reader(enlarge=2.0)
    model.warmup()
    return model


def test_every_line_of_the_page_is_read_from_top_to_bottom(reader, inputs):
    answer = reader.predict(inputs.page())
    assert answer["texts"][:3] == [
        "Region-based segmentation",
        "Let us first determine markers of the coins and the",
        "background. These markers are pixels that we can label",
    ]
    assert len(answer["texts"]) == len(answer["scores"]) == len(answer["boxes"]) == 7
    assert (answer["scores"] > 0.9).all()


def test_boxes_lie_in_the_picture_and_follow_the_lines(reader, inputs):
    image = inputs.page()
    boxes = reader.predict(image)["boxes"]
    assert boxes.shape == (7, 4, 2)
    assert boxes.dtype == np.float32
    assert boxes.min() >= 0
    assert (boxes.max(axis=(0, 1)) <= [image.shape[1], image.shape[0]]).all()
    assert (np.diff(boxes[:, :, 1].mean(axis=1)) > 0).all()


def test_the_name_on_the_motorcycle_is_read(reader, inputs):
    assert "YAMAHA" in reader.predict(inputs.motorcycle())["texts"]


def test_a_picture_without_text_gives_empty_answers(reader):
    answer = reader.predict(np.full((200, 300, 3), 127, np.uint8))
    assert answer["texts"] == []
    assert answer["scores"].shape == (0,)
    assert answer["boxes"].shape == (0, 4, 2)


def test_a_read_only_picture_is_read(reader, inputs):
    image = inputs.page().copy()
    image.setflags(write=False)
    assert len(reader.predict(image)["texts"]) == 7


def test_a_grey_picture_is_refused(reader):
    with pytest.raises(ValueError, match="height, width, 3"):
        reader.predict(np.zeros((10, 10), np.uint8))


def test_weights_come_from_the_package(reader_module, monkeypatch):
    import requests

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(requests, "get", refuse)
    reader_module.Reader().warmup()


def test_nothing_is_reported_to_the_maker_of_the_runtime(demo_folder, tmp_path):
    """Its telemetry keeps a session file in the temporary folder from the moment of its import."""
    subprocess.run(
        [sys.executable, "-c", "import reader; reader.Reader()"],
        cwd=demo_folder / "models",
        env={**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        check=True,
        timeout=60,
    )
    assert list(tmp_path.iterdir()) == []
