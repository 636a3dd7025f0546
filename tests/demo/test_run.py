"""The demo's checks: a wrong answer must be a failure."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import huterox


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


def refused(
    stays: dict[str, str], free_slots: int = 0, would_help: tuple[str, ...] = ("unpinning reader, vad",)
) -> Any:
    holders = [
        {"container": f"c1.{number}", "model": model, "slots": 1, "host_mb": 140, "stays_because": why}
        for number, (model, why) in enumerate(stays.items())
    ]
    node = {"node": "here", "capacity": {"slots": 2, "host_mb": 4096}, "free": {"slots": free_slots, "host_mb": 3500}}
    return huterox.ResourceInterrupt(
        "no room",
        needed={"slots": 1, "host_mb": 190},
        waited_s=0.0,
        would_help=list(would_help),
        retry_after_s=None,
        nodes=[{**node, "held_by": holders}],
    )


def test_refusal_that_names_who_stays_and_what_helps_passes_and_is_shown(run, capsys):
    run.show_refusal(refused({"reader": "pinned", "vad": "pinned"}), ["vad", "reader"])
    assert capsys.readouterr().out.split("\n")[1:-1] == [
        "            needed      1 slot, 190 MB",
        "            free        0 slots, 3500 MB, of 2 slots, 4096 MB on node here",
        "            held by     reader c1.0 with 1 slot, 140 MB; it stays because it is pinned",
        "                        vad c1.1 with 1 slot, 140 MB; it stays because it is pinned",
        "            would help  unpinning reader, vad",
        "            come back   waiting does not help",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stays": {"reader": "pinned"}}, "are pinned, but"),
        ({"stays": {"reader": "pinned", "vad": "loading"}}, "are pinned, but"),
        ({"stays": {"reader": "pinned", "vad": "pinned"}, "free_slots": 1}, "the node is full"),
        ({"stays": {"reader": "pinned", "vad": "pinned"}, "would_help": ()}, "does not say what would help"),
    ],
)
def test_refusal_that_does_not_fit_what_was_done_is_a_failure(run, wrong, message):
    with pytest.raises(run.DemoFailed, match=message):
        run.show_refusal(refused(**wrong), ["vad", "reader"])


def test_unread_text_is_a_failure(run, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "PICTURES", tmp_path)
    result = {"texts": ["YAWAHA"], "scores": np.ones(1), "boxes": np.zeros((1, 4, 2))}
    with pytest.raises(run.DemoFailed, match="YAMAHA"):
        run.show_texts(result, run.inputs.page(), "page", ["YAMAHA"])
