"""Reads the text in a picture: PP-OCR's detector and recogniser on onnxruntime, as the package rapidocr ships them."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# Read when onnxruntime is imported: it would report to its maker otherwise, and leave files in the temporary folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from rapidocr import RapidOCR


class Reader:
    """Finds lines of upright text in a picture and reads each."""

    def __init__(self, enlarge: float = 1.0):
        """`enlarge`: small print is read better from a picture blown up by this factor first."""
        self._enlarge = enlarge
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "warning",
                "Global.use_cls": False,  # would turn lines that stand on their head
                # Containers share the machine: one thread each is quicker than two that fight with the neighbours'.
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                # With the paths given nothing is ever looked up or downloaded.
                "Det.model_path": weights_path("det"),
                "Rec.model_path": weights_path("rec"),
            }
        )

    def warmup(self) -> None:
        """Loads both networks, which happens at the first text that is found, and checks that they read."""
        image = np.full((160, 160, 3), 255, np.uint8)
        cv2.putText(image, "HELLO", (20, 100), cv2.FONT_HERSHEY_SIMPLEX, 0.75, (0, 0, 0), 2)
        texts = self.predict(image)["texts"]
        if texts != ["HELLO"]:
            raise RuntimeError(f"the reader read {texts} where HELLO stands")

    def predict(self, image: np.ndarray) -> dict[str, object]:
        """Read `image`.

        Args:
            image: uint8 [height, width, 3], red green blue.
        Returns:
            texts: one string for each line of text, from top to bottom.
            scores: float32 [n], how sure the model is of each.
            boxes: float32 [n, 4, 2], corners as x, y in pixels of `image`.
        """
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image is [height, width, 3], got {list(image.shape)}")
        blue_green_red = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._enlarge != 1.0:
            blue_green_red = cv2.resize(
                blue_green_red, None, fx=self._enlarge, fy=self._enlarge, interpolation=cv2.INTER_CUBIC
            )
        found: Any = self._ocr(blue_green_red)
        if found.txts is None or found.boxes is None:
            return {"texts": [], "scores": np.empty(0, np.float32), "boxes": np.empty((0, 4, 2), np.float32)}
        return {
            "texts": list(found.txts),
            "scores": np.array(found.scores, np.float32),
            "boxes": np.array(found.boxes, np.float32) / self._enlarge,
        }


def weights_path(task: str) -> str:
    """The ONNX file that the package carries for `task` ("det" or "rec")."""
    package = find_spec("rapidocr")
    if package is None or package.origin is None:
        raise FileNotFoundError("the weights come with the package rapidocr: pip install rapidocr")
    folder = Path(package.origin).parent / "models"
    path = next(folder.glob(f"*_{task}_*.onnx"), None)
    if path is None:
        raise FileNotFoundError(f"no *_{task}_*.onnx in {folder}")
    return str(path)
