"""Speech detection: where in a recording somebody speaks. Silero's TorchScript weights, as their package ships them."""

import warnings
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 512
WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ


class Vad:
    """Gives every window of 32 ms a probability of speech, and joins likely windows to segments."""

    def __init__(
        self, device: str = "cpu", threshold: float = 0.5, silence_min_s: float = 0.1, speech_min_s: float = 0.2
    ):
        torch.set_num_threads(1)  # the windows are tiny: a second thread costs more than it brings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have an exported program
            self._network = torch.jit.load(weights_path(), map_location=device).eval()
        self._device = device
        self._threshold = threshold
        self._silence_min_s = silence_min_s
        self._speech_min_s = speech_min_s

    def warmup(self) -> None:
        """The first two runs of a TorchScript file compile it: better now than in a caller's time."""
        for _ in range(2):
            self.predict(torch.zeros(2 * WINDOW_SAMPLES))

    def predict(self, audio: torch.Tensor) -> dict[str, np.ndarray]:
        """Find the speech in `audio`.

        Args:
            audio: float32 [samples], one channel at 16 kHz, from -1 to 1.
        Returns:
            segments: float64 [n, 2], start and end of each stretch of speech in seconds.
            probability: float32 [windows], one for each 32 ms.
        """
        if audio.ndim != 1:
            raise ValueError(f"audio has one dimension (one channel), got shape {list(audio.shape)}")
        if not len(audio):
            return {"segments": np.empty((0, 2)), "probability": np.empty(0, np.float32)}
        # `audio_forward` pads the last window and forgets the state of the call before.
        probability = self._network.audio_forward(audio[None].to(self._device), SAMPLE_RATE_HZ)[0].numpy()
        return {"segments": self._segments(probability, len(audio) / SAMPLE_RATE_HZ), "probability": probability}

    def _segments(self, probability: np.ndarray, length_s: float) -> np.ndarray:
        segments: list[list[float]] = []
        start = 0
        for is_speech, windows in groupby(probability >= self._threshold):
            end = start + len(list(windows))
            if is_speech and segments and start * WINDOW_S - segments[-1][1] < self._silence_min_s:
                segments[-1][1] = end * WINDOW_S
            elif is_speech:
                segments.append([start * WINDOW_S, end * WINDOW_S])
            start = end
        kept = [[begin, min(end, length_s)] for begin, end in segments if end - begin >= self._speech_min_s]
        return np.array(kept).reshape(-1, 2)


def weights_path() -> Path:
    """Where the package keeps its weights. The package itself is not imported: it would bring torchaudio."""
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise FileNotFoundError("the weights come with the package silero-vad: pip install silero-vad")
    return Path(package.origin).parent / "data" / "silero_vad.jit"
