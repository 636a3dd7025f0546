from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.platform import Platform, running

import huterox


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for all tests of a module that leave it as it was."""
    with running(tmp_path_factory.mktemp("up") / "d", "--slots", "12", "--host-mb", "4096") as platform:
        yield platform


@pytest.fixture
def client(shared: Platform) -> Iterator[huterox.Client]:
    with shared.client(timeout=30.0) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Platform]:
    """A platform that the test may break."""
    with running(tmp_path / "d", "--slots", "4", "--host-mb", "2048") as platform:
        yield platform
