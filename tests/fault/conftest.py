import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fault.crew import Crew, crew
from tests.fault.site import Site, site


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A site that the test may break."""
    with site(tmp_path / "s") as made:
        yield made


@pytest.fixture
def callers(own: Site) -> Iterator[Crew]:
    """Caller processes of that site."""
    with crew(own) as made:
        yield made


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line past pytest's capture: what a test has counted is of interest also when it passes."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {text}")
            sys.stdout.flush()

    return write
