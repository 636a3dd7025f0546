"""Times are not tested: a busy machine must not fail a property."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the temporary files of a bench, with a short name: a socket's path has a limit."""
    path = Path(tempfile.mkdtemp(prefix="hxb-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
