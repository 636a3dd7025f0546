"""Traces of calls: what they hold, and the CSV files that carry them.

    time_s,tenant,model,size_mb,load_s,service_s
    0.000000,t1,m7,812.5,1.904,0.0312

Times count from anywhere and never go back. A model has one size and one load time in the whole trace: it is the same
program each time. The file says what is wrong with it by line and column, before anything is replayed.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from huterox_wire.errors import InvalidInput
from huterox_wire.limits import NAME_NBYTES_MAX

COLUMNS: Final = ("time_s", "tenant", "model", "size_mb", "load_s", "service_s")
REQUESTS_MAX: Final = 5_000_000
MODELS_MAX: Final = 100_000
TIME_MAX_S: Final = 1e9
SIZE_MAX_MB: Final = float(2**24)
"""What a model file may declare, too."""
LOAD_MAX_S: Final = 86_400.0
SERVICE_MAX_S: Final = 86_400.0


class Cost(NamedTuple):
    """What having a model costs: room, and the time to load it."""

    size_mb: float
    load_s: float


class Request(NamedTuple):
    """One call. `service_s` is how long its container is busy with it."""

    time_s: float
    tenant: str
    model: str
    service_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their times, and what each of their models costs."""

    requests: list[Request]
    models: dict[str, Cost]

    def __len__(self) -> int:
        return len(self.requests)


def read_trace(path: Path) -> Trace:
    """Read a CSV file. Raises InvalidInput, naming the file, and the line and column where something is wrong."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return parse_trace(file)
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path}: not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc.message}") from exc


def parse_trace(lines: Iterable[str]) -> Trace:
    """Check and take in the lines of a CSV file, its header first."""
    reader = csv.reader(lines, strict=True)
    parsed = _Parser()
    try:
        header = next(reader, None)
        if header is None or tuple(name.strip() for name in header) != COLUMNS:
            raise InvalidInput(f"line 1: the header must be {','.join(COLUMNS)}")
        for row in reader:
            if row:
                parsed.take(reader.line_num, row)
    except csv.Error as exc:
        raise InvalidInput(f"line {reader.line_num}: {exc}") from exc
    if not parsed.requests:
        raise InvalidInput("no request follows the header")
    return Trace(parsed.requests, parsed.models)


class _Parser:
    """Rows, one after another."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.models: dict[str, Cost] = {}
        self._lines: dict[str, int] = {}  # where each model was seen first
        self._last_s = 0.0

    def take(self, line: int, row: list[str]) -> None:
        if len(row) != len(COLUMNS):
            raise InvalidInput(f"line {line}: {len(row)} columns, {len(COLUMNS)} are needed")
        if len(self.requests) == REQUESTS_MAX:
            raise InvalidInput(f"line {line}: more than {REQUESTS_MAX} requests")
        time_s = _number(line, "time_s", row[0], 0.0, TIME_MAX_S)
        if time_s < self._last_s:
            raise InvalidInput(f"line {line}, column time_s: {row[0]} comes after {self._last_s!r}: times go back")
        self._last_s = time_s
        tenant, model = _name(line, "tenant", row[1]), _name(line, "model", row[2])
        size_mb = _number(line, "size_mb", row[3], 0.0, SIZE_MAX_MB)
        if not size_mb:
            raise InvalidInput(f"line {line}, column size_mb: {row[3]!r} is not above 0")
        self._know(line, model, Cost(size_mb, _number(line, "load_s", row[4], 0.0, LOAD_MAX_S)))
        self.requests.append(Request(time_s, tenant, model, _number(line, "service_s", row[5], 0.0, SERVICE_MAX_S)))

    def _know(self, line: int, model: str, cost: Cost) -> None:
        known = self.models.get(model)
        if known is None:
            if len(self.models) == MODELS_MAX:
                raise InvalidInput(f"line {line}: more than {MODELS_MAX} models")
            self.models[model], self._lines[model] = cost, line
            return
        for column, was, now in zip(Cost._fields, known, cost, strict=True):
            if was != now:
                first = self._lines[model]
                raise InvalidInput(
                    f"line {line}, column {column}: model {model!r} has {was!r} in line {first}, not {now!r}"
                )


def _number(line: int, column: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InvalidInput(f"line {line}, column {column}: {text[:40]!r} is not a number") from None
    if not isfinite(value) or not least <= value <= most:
        raise InvalidInput(f"line {line}, column {column}: {text[:40]!r} is not from {least:g} to {most:g}")
    return value


def _name(line: int, column: str, text: str) -> str:
    if not text or len(text) > NAME_NBYTES_MAX or not text.isprintable():
        raise InvalidInput(
            f"line {line}, column {column}: {text[:40]!r} is not a name of 1 to {NAME_NBYTES_MAX} printable characters"
        )
    return text


def write_trace(trace: Trace, file: TextIO) -> None:
    """Write what `parse_trace` reads back: the same numbers to the last bit."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(trace))


def _rows(trace: Trace) -> Iterator[tuple[object, ...]]:
    for request in trace.requests:
        cost = trace.models[request.model]
        yield (
            repr(request.time_s),
            request.tenant,
            request.model,
            repr(cost.size_mb),
            repr(cost.load_s),
            repr(request.service_s),
        )
