from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def vad(vad_module: ModuleType) -> Any:
    model = vad_module.Vad()
    model.warmup()
    return model


@pytest.fixture(scope="module")
def audio(inputs: ModuleType) -> Any:
    import torch

    return torch.from_numpy(inputs.recording().audio)


def test_each_sentence_of_the_recording_becomes_one_segment(vad, audio, inputs):
    segments = vad.predict(audio)["segments"]
    assert segments[:, 0].tolist() == pytest.approx(list(inputs.SPEECH_STARTS_S), abs=0.1)
    assert ((segments[:, 1] - segments[:, 0] > 0.4) & (segments[:, 1] - segments[:, 0] < 1.2)).all()


def test_segments_agree_with_the_packages_own_search(vad, audio):
    from silero_vad import get_speech_timestamps

    theirs = get_speech_timestamps(audio, vad._network, return_seconds=True, speech_pad_ms=0, time_resolution=3)
    ours = vad.predict(audio)["segments"]
    assert ours == pytest.approx(np.array([[segment["start"], segment["end"]] for segment in theirs]), abs=0.1)


def test_a_call_leaves_no_trace_in_the_next(vad, audio):
    first = vad.predict(audio)["probability"]
    vad.predict(audio[16_000:48_000])
    assert np.array_equal(vad.predict(audio)["probability"], first)


def test_silence_has_no_segment(vad):
    import torch

    answer = vad.predict(torch.zeros(32_000))
    assert answer["segments"].shape == (0, 2)
    assert len(answer["probability"]) == 63


def test_empty_audio_has_no_windows(vad):
    import torch

    answer = vad.predict(torch.zeros(0))
    assert answer["segments"].shape == (0, 2)
    assert answer["probability"].shape == (0,)


def test_segment_ends_with_the_audio_when_speech_is_cut_off(vad, audio):
    cut = audio[:14_636]  # inside the first word, and inside a window
    assert vad.predict(cut)["segments"][-1, 1] == len(cut) / 16_000


def test_short_pauses_are_bridged_and_short_bursts_dropped(vad):
    burst = np.repeat([0.0, 0.9, 0.0], [10, 2, 10])
    assert vad._segments(burst, 10.0).shape == (0, 2)
    paused = np.repeat([0.0, 0.9, 0.1, 0.9, 0.0], [10, 10, 2, 10, 10])
    assert vad._segments(paused, 10.0).tolist() == [[pytest.approx(0.32), pytest.approx(1.024)]]


def test_two_channels_are_refused(vad):
    import torch

    with pytest.raises(ValueError, match="one dimension"):
        vad.predict(torch.zeros(2, 16_000))
