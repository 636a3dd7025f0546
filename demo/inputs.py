"""The demo's real inputs: a voice, sentences, photographs. All come with packages; nothing is fetched at run time."""

import wave
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SENTENCES = [
    "A cat is sleeping on the sofa.",
    "The central bank raised interest rates again.",
    "A kitten naps on the couch.",
    "It will rain in the mountains tomorrow.",
    "The train to Vienna leaves at nine.",
]
CLOSEST = (0, 2)
"""The two sentences that mean nearly the same."""


SPEECH_STARTS_S = (0.35, 1.89, 3.52, 4.90, 6.66, 8.16)
"""When the six sentences of the recording begin."""


class Recording(NamedTuple):
    audio: np.ndarray  # float32 [samples], from -1 to 1
    rate_hz: int

    @property
    def length_s(self) -> float:
        return len(self.audio) / self.rate_hz


def recording() -> Recording:
    """A man reads six short sentences of Samuel Beckett, with pauses: ten seconds, one channel, 16 kHz."""
    with wave.open(str(_package_folder("moonshine_voice") / "assets" / "beckett.wav")) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError("expected one channel of 16 bit")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return Recording(samples.astype(np.float32) / 32768, file.getframerate())


def page() -> np.ndarray:
    """A photograph of a printed page, slightly bent; uint8 [height, width, 3]."""
    return _photograph("page.png")


def motorcycle() -> np.ndarray:
    """A photograph of a motorcycle in a garage, with its maker's name on it; uint8 [height, width, 3]."""
    return _photograph("motorcycle_left.png")


def _photograph(name: str) -> np.ndarray:
    with Image.open(_package_folder("skimage") / "data" / name) as image:
        return np.asarray(image.convert("RGB"))


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed; `make env` installs what the demo needs")
    return Path(spec.origin).parent
