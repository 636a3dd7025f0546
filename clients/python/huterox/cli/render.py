"""Plain text for people: aligned columns, ages, sizes; and JSON for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a table: its title, and the text of a row's cell."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


def column(title: str, key: str, show: Callable[[Any], str] | None = None, *, right: bool = False) -> Column:
    """The column of one key; what is missing or None is a dash."""

    def cell(row: Row) -> str:
        value = row.get(key)
        if value is None or value == "":
            return "-"
        return show(value) if show is not None else str(value)

    return Column(title, cell, right)


def table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """Aligned columns under their titles, without trailing blanks."""
    lines = [[col.title for col in columns]]
    lines += [[one_line(col.cell(row)) for col in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if col.right else text.ljust(width)
            for col, text, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def print_rows(columns: Sequence[Column], rows: Sequence[Row], output: str, *, nothing: str) -> None:
    """A list, as the reader asked for it."""
    if output == "json":
        print_json(rows)
    elif rows:
        print(table(columns, rows))
    else:
        print(nothing, file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=2, allow_nan=False))


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, which could rewrite the reader's terminal."""
    text = " ".join(text.split())
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def duration(seconds: float) -> str:
    """Two units at most: 12s, 3m05s, 2h09m, 4d11h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def age(at_s: float) -> str:
    """How long ago a moment (seconds since the epoch) was."""
    return duration(time.time() - at_s)


def moment(at_s: float) -> str:
    """A moment as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def megabytes(value_mb: float) -> str:
    """A size given in MiB: 0.4 MB, 300 MB, 1.5 GB."""
    if value_mb >= 1024:
        return f"{value_mb / 1024:.1f} GB"
    return f"{value_mb:.0f} MB" if value_mb >= 10 or value_mb == int(value_mb) else f"{value_mb:.1f} MB"


def nbytes_text(nbytes: int) -> str:
    """A size given in bytes."""
    if nbytes < 1024:
        return f"{nbytes} B"
    return f"{nbytes / 1024:.1f} KB" if nbytes < 1024**2 else megabytes(nbytes / 1024**2)


def gigabyte_hours(byte_s: float) -> str:
    """Bytes times seconds, as the bill would say it."""
    return f"{byte_s / 1024**3 / 3600:.3g}"


def seconds_text(seconds: float) -> str:
    """A short time: 12 ms, 3.4 s, 5m10s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def listed(values: Sequence[Any]) -> str:
    """A list inside a cell."""
    return ", ".join(str(value) for value in values) or "-"
