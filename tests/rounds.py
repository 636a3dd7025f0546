"""How long a campaign runs: a short round in every run of the tests, a long one with `make soak`.

`HUTEROX_TEST_SEED` is the seed of both, 0 if it is not set. The name of such a test says its seed, so a failure does.
"""

import os

import pytest
from _pytest.mark import ParameterSet

SEED = int(os.environ.get("HUTEROX_TEST_SEED", "0"))


def rounds(name: str, short: int, long: int) -> list[ParameterSet]:
    """How often, as parameters of a test or fixture; the environment variable `name` gives another long round."""
    long = int(os.environ.get(name, long))
    return [
        pytest.param(short, id=f"{short} rounds, seed {SEED}"),
        pytest.param(long, id=f"{long} rounds, seed {SEED}", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ]


def seeds(short: int, long: int) -> list[ParameterSet]:
    """Seeds from SEED on, each a test of its own: `short` of them always, `long` with `make soak`."""
    marks = [() if at < short else (pytest.mark.soak,) for at in range(long)]
    return [pytest.param(SEED + at, marks=mark) for at, mark in enumerate(marks)]
