"""The demo's checks: a wrong answer must be a failure."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def run(load_demo_module: Any, demo_folder: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(demo_folder))
    for name in ("inputs", "node", "show"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return load_demo_module("run.py")


def speech(run: ModuleType, shift_s: float) -> np.ndarray:
    starts = np.array(run.inputs.SPEECH_STARTS_S) + shift_s
    return np.stack([starts, starts + 0.7], axis=1)


def test_speech_in_the_right_places_passes(run):
    run.show_speech(speech(run, shift_s=0.1), length_s=10.0)


@pytest.mark.parametrize("segments", [np.empty((0, 2)), np.array([[0.35, 8.9]])])
def test_missed_sentences_are_a_failure(run, segments):
    with pytest.raises(run.DemoFailed, match="six sentences"):
        run.show_speech(segments, length_s=10.0)


def test_late_sentences_are_a_failure(run):
    with pytest.raises(run.DemoFailed, match="six sentences"):
        run.show_speech(speech(run, shift_s=0.3), length_s=10.0)


def test_wrong_pair_of_sentences_is_a_failure(run):
    vectors = np.eye(5, dtype=np.float32)
    vectors[3] = vectors[4]
    with pytest.raises(run.DemoFailed, match="nearly the same"):
        run.show_closest(vectors)


def test_unread_text_is_a_failure(run, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "PICTURES", tmp_path)
    result = {"texts": ["YAWAHA"], "scores": np.ones(1), "boxes": np.zeros((1, 4, 2))}
    with pytest.raises(run.DemoFailed, match="YAMAHA"):
        run.show_texts(result, run.inputs.page(), "page", ["YAMAHA"])
