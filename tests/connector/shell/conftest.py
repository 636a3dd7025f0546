"""A daemon for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.connector.shell.daemon import Daemon, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(Daemon(tmp_path)) as daemon:
        yield daemon
