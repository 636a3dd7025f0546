"""A library that makes random generators while it is imported: some from entropy, some from numbers of its own."""

import atexit
import multiprocessing
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


class Holder:
    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator


DRAWN = np.random.default_rng()
PHILOX = Holder(np.random.Generator(np.random.Philox()))
LEGACY = np.random.RandomState()
LEGACY.standard_normal()  # keeps the second of a pair
SEEDS = np.random.SeedSequence()
CHILD = np.random.default_rng(np.random.SeedSequence().spawn(2)[1])
PLAIN = random.Random()
RESEEDED = random.Random(5)
RESEEDED.seed()

FIXED = np.random.default_rng(7)
FIXED_LONG = np.random.default_rng(122807528840384100672342137672332424406)
FIXED_LEGACY = np.random.RandomState(7)
FIXED_PLAIN = random.Random(7)
FIXED_LATER = random.Random()
FIXED_LATER.seed(7)

FOLDER = tempfile.mkdtemp(prefix="hxk-library-")


def remove() -> None:
    Path(FOLDER).rmdir()


atexit.register(remove)


def draw() -> dict[str, Any]:
    """Numbers that must differ from process to process, and numbers that must not."""
    drawn = {
        "generator": DRAWN.random(),
        "spawned": DRAWN.spawn(1)[0].random(),
        "held": PHILOX.generator.random(),
        "legacy": LEGACY.random_sample(),
        "normal": LEGACY.standard_normal(),
        "seeds": float(SEEDS.generate_state(1)[0]),
        "child": CHILD.random(),
        "plain": PLAIN.random(),
        "reseeded": RESEEDED.random(),
        "global": random.random(),
        "global of numpy": np.random.random(),
        "key": bytes(multiprocessing.current_process().authkey).hex(),
        "name": next(tempfile._get_candidate_names()),  # type: ignore[attr-defined]
    }
    fixed = {
        "generator": FIXED.random(),
        "long": FIXED_LONG.random(),
        "legacy": FIXED_LEGACY.random_sample(),
        "plain": FIXED_PLAIN.random(),
        "later": FIXED_LATER.random(),
    }
    return {"drawn": drawn, "fixed": fixed, "folder": FOLDER, "is_there": Path(FOLDER).is_dir()}
