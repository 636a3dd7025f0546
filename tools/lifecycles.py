"""Draw the life-cycle tables into ARCHITECTURE.md, between its markers. `make fix` runs this; a test checks it."""

import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from huterox_connector.core import lifecycle as container
from huterox_kernel.core import lifecycle as worker

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"
TABLES: dict[str, Mapping[StrEnum, Mapping[StrEnum, StrEnum]]] = {
    "container": container.TRANSITIONS,
    "worker": worker.TRANSITIONS,
}


def draw(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    """One line a state: what can happen there, and where it leads."""
    lines = ["| in state | what can happen, and the state that follows |", "|---|---|"]
    for state, row in table.items():
        steps = ", ".join(f"{step} → {following}" for step, following in row.items())
        lines.append(f"| {state} | {steps or 'the end'} |")
    return "\n".join(lines)


def redraw(page: str) -> str:
    """`page` with every table between `<!-- lifecycle NAME -->` and `<!-- end -->` drawn anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- lifecycle {match[1]} -->\n{draw(TABLES[match[1]])}\n<!-- end -->"

    return re.sub(r"<!-- lifecycle (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> int:
    page = PAGE.read_text()
    PAGE.write_text(redraw(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
