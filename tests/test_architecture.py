"""ARCHITECTURE.md says what the code says, where that can be checked."""

import re
from pathlib import Path

import pytest
from tools.lifecycles import PAGE, TABLES, redraw

ROOT = PAGE.parent


def test_lifecycle_tables_are_drawn_as_the_code_has_them() -> None:
    page = PAGE.read_text()
    assert redraw(page) == page, "run `make fix`"
    assert set(re.findall(r"<!-- lifecycle (\w+) -->", page)) == set(TABLES)


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "README.md"])
def test_every_path_that_is_named_exists(page: str) -> None:
    named = re.findall(
        r"`((?:wire|shm|connector|kernel|clients|bench|deploy|demo|tests|tools)/[\w./-]*)`", (ROOT / page).read_text()
    )
    assert named
    missing = [path for path in named if not (ROOT / path).exists() and not Path(path).match("bench/results*")]
    assert not missing
