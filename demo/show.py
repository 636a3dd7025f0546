"""How the demo speaks: lines with the seconds since its start, a timeline of speech, refusals, pictures with boxes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

START_S = time.monotonic()

_PICTURE_WIDTH = 900
_MARGIN = 36
_LINE_HEIGHT = 30
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


def begin(text: str) -> None:
    """A line that opens a new step."""
    print()
    say(text)


def say(text: str) -> None:
    """Print `text` with the seconds since the demo began; further lines are indented under the first."""
    stamp = f"[{time.monotonic() - START_S:5.1f} s] "
    print(stamp + text.replace("\n", "\n" + " " * len(stamp)), flush=True)


def timeline(segments: np.ndarray, length_s: float, width: int = 80) -> str:
    """Speech as `#` over a ruler of seconds."""
    step_s = length_s / width
    cells = ["."] * width
    ruler = [" "] * width
    for start_s, end_s in segments:
        for index in range(int(start_s / step_s), min(width, round(end_s / step_s))):
            cells[index] = "#"
    for second in range(0, int(length_s) + 1, 2):
        index = int(second / step_s)
        label = f"|{second} s"
        if index + len(label) <= width:
            ruler[index : index + len(label)] = label
    return "".join(cells) + "\n" + "".join(ruler).rstrip()


def refusal(facts: Mapping[str, Any]) -> str:
    """A refusal for want of room: what was needed, what is free, who holds the rest and why, what would help."""
    lines = [("needed", amounts(facts["needed"]))]
    for node in facts["nodes"]:
        lines.append(("free", f"{amounts(node['free'])}, of {amounts(node['capacity'])} on node {node['node']}"))
        for holder in node["held_by"]:
            held = f"{holder['model']} {holder['container']} with {amounts(holder)}"
            lines.append(("held by", f"{held}; it stays because it is {holder['stays_because']}"))
    lines += [("would help", text) for text in facts["would_help"]]
    soon_s = facts["retry_after_s"]
    lines.append(("come back", "waiting does not help" if soon_s is None else f"in {soon_s:.1f} s"))
    named = [("" if index and lines[index - 1][0] == name else name, text) for index, (name, text) in enumerate(lines)]
    return "\n".join(f"{name:<10}  {text}" for name, text in named)


def amounts(facts: Mapping[str, Any]) -> str:
    """`1 slot, 540 MB`."""
    return f"{facts['slots']} slot{'s' * (facts['slots'] != 1)}, {facts['host_mb']} MB"


def save_boxes(path: Path, image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], scores: np.ndarray) -> None:
    """Save `image` with a numbered box around each text, and the texts beside it."""
    font = ImageFont.load_default(size=18)
    lines = [f"{text}   ({score:.2f})" for text, score in zip(texts, scores, strict=True)]
    panel_width = 60 + round(max((font.getlength(line) for line in lines), default=0))
    factor = _PICTURE_WIDTH / image.shape[1]
    picture = Image.fromarray(image).resize((_PICTURE_WIDTH, round(image.shape[0] * factor)), Image.Resampling.LANCZOS)
    height = max(picture.height, _LINE_HEIGHT * (len(lines) + 1))
    canvas = Image.new("RGB", (_MARGIN + _PICTURE_WIDTH + panel_width, height), "white")
    canvas.paste(picture, (_MARGIN, 0))
    draw = ImageDraw.Draw(canvas)
    label_y = 0.0
    for index, (box, line) in enumerate(zip(boxes * factor + (_MARGIN, 0), lines, strict=True)):
        colour = _COLOURS[index % len(_COLOURS)]
        left, middle = float(box[:, 0].min()), float(box[:, 1].mean())
        label_y = max(label_y + 24, middle)  # labels of neighbours stand under each other
        draw.polygon([(float(x), float(y)) for x, y in box], outline=colour, width=2)
        draw.line((_MARGIN - 4, label_y, left, middle), fill=colour, width=2)
        _label(draw, (4, label_y - 11), index + 1, colour, font)
        at = (_MARGIN + _PICTURE_WIDTH + 12, _LINE_HEIGHT * index + 8)
        _label(draw, at, index + 1, colour, font)
        draw.text((at[0] + 32, at[1]), line, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _label(draw: ImageDraw.ImageDraw, at: tuple[float, float], number: int, colour: str, font: Any) -> None:
    draw.rectangle((at[0], at[1], at[0] + 24, at[1] + 22), fill=colour)
    draw.text((at[0] + 12, at[1] + 11), str(number), fill="white", font=font, anchor="mm")
