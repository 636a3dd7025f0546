"""SPEC.md says what the code does: its tables are compared with the package."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from huterox_shm import layout
from huterox_wire import errors, leases, limits, meta, nodes
from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.forms import FORMS_MAX
from huterox_wire.header import HEADER_NBYTES, MAGIC, VERSION
from huterox_wire.kinds import Kind

SPEC = (Path(__file__).parents[2] / "wire" / "SPEC.md").read_text(encoding="utf-8")
STRUCTS = (
    meta.CallMeta,
    meta.OpenMeta,
    meta.OpenedMeta,
    meta.ErrorMeta,
    meta.AdminMeta,
    nodes.RegisterMeta,
    nodes.RegisteredMeta,
    nodes.HeartbeatMeta,
    nodes.ContainerReport,
    nodes.CreateMeta,
    nodes.CloseMeta,
    nodes.ContainerEvent,
    nodes.LogArgs,
    nodes.ModelSpec,
    leases.LeaseMeta,
    leases.LeasedMeta,
    leases.LeaseOrderMeta,
    leases.LaneHello,
    leases.LaneGranted,
    leases.DrainMeta,
)


def rows(after: str) -> list[list[str]]:
    """The cells of the first table that begins at or after the text `after`."""
    lines = iter(SPEC[SPEC.index(after) :].splitlines())
    table: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return [row for row in table if not set(row[0]) <= {"-"}][1:]


def test_the_kinds_are_those_of_the_code() -> None:
    assert {row[0]: int(row[1]) for row in rows("## 5. Kinds")} == {kind.name: kind.value for kind in Kind}


def test_the_limits_are_those_of_the_code() -> None:
    coded = {name: value for name, value in vars(limits).items() if isinstance(value, int)}
    assert {row[0]: int(row[1]) for row in rows("## 4. Limits")} == coded


def test_the_header_is_that_of_the_code() -> None:
    table = {row[0]: row for row in rows("| field | bytes | meaning |")}
    assert f"0x{MAGIC:04x}" in table["magic"][2]
    assert table["version"][2] == str(VERSION)
    assert table["reserved"][1] == f"36–{HEADER_NBYTES - 1}"


def test_the_dtypes_are_those_of_the_code() -> None:
    written = {name: int(row[1]) for row in rows("### 6.2 Element types") for name in row[0].split(", ")}
    assert written == ITEM_NBYTES


def test_the_errors_are_those_of_the_code() -> None:
    written = {row[0]: row[1] == "yes" for row in rows("## 7. Errors")}
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.HuteroxError)]
    assert written == {cls.code: cls.retryable_by_default for cls in classes}


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_the_fields_of_a_meta_are_those_of_the_code(struct: type[msgspec.Struct]) -> None:
    written = {name: row[2] for row in rows(f"**{struct.__name__}**") for name in row[0].split(", ")}
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    assert written.keys() == fields.keys()
    for name, default in written.items():
        assert default_text(fields[name]) == default, name


def test_the_usage_of_lanes_has_the_fields_of_the_code_in_their_order() -> None:
    (written,) = re.findall(r"\*\*LaneUsage\*\* is a list, not a map: `\[([\w, ]+)\]`", SPEC)
    assert tuple(written.split(", ")) == nodes.LaneUsage.__struct_fields__


def test_the_bounds_of_leases_are_those_of_the_code() -> None:
    assert f"of at most {leases.HELLO_NBYTES_MAX} bytes" in SPEC
    assert f"one packet of at most {leases.GRANT_NBYTES_MAX:,} bytes" in SPEC
    assert f"of lanes: {leases.LANE_VERSION}." in SPEC
    assert leases.LANE_VERSION == layout.VERSION
    table = {row[0]: row[1] for row in rows("**LeaseMeta**")}
    assert table["half_mb"] == f"int, 0 to {leases.HALF_MB_MAX:,}"
    assert table["ring_entries"] == f"int, 0 to {leases.RING_ENTRIES_MAX:,}"
    assert table["host_id"] == f"text of at most {nodes.HOST_ID_NBYTES_MAX} code points"
    assert f"text of 1 to {leases.SOCKET_PATH_NBYTES_MAX} code points" in SPEC
    assert f"1 to {FORMS_MAX} that its sender chose" in SPEC


def test_the_entry_of_a_lane_is_that_of_the_code() -> None:
    table = {row[0]: row for row in rows("**Entry**")}
    kinds = dict(re.findall(r"(\d) ([A-Z]+)", table["kind"][2]))
    flags = dict(re.findall(r"([A-Z_]+) \((\d)\)", table["flags"][2]))
    assert {name: int(value) for value, name in kinds.items()} == {
        name: getattr(layout, name) for name in kinds.values()
    }
    assert {name: int(value) for name, value in flags.items()} == {name: getattr(layout, name) for name in flags}
    assert set(flags) == {"REQUEST_RELEASED", "STREAM", "DEFINES", "INDIRECT"}
    sizes = {"B": 1, "H": 2, "I": 4, "Q": 8}
    at, places = 0, []
    for code in layout.ENTRY.format.removeprefix("<"):
        places.append(str(at) if code == "B" else f"{at}–{at + sizes[code] - 1}")
        at += sizes[code]
    assert [row[1] for row in table.values()] == [*places[:9], f"40–{layout.ENTRY_NBYTES - 1}"]


def test_the_states_of_a_lane_are_those_of_the_code() -> None:
    table = {row[0]: int(row[1].split(",")[0]) for row in rows("**State**")}
    assert table == {"OPEN": layout.OPEN, "DRAINING": layout.DRAINING, "DEAD": layout.DEAD}
    assert f"u64 word {layout.STATE} of the header" in SPEC
    assert f"above word {layout.BEGUN} (`begun`" in SPEC
    assert f"u64 words {layout.REPLIES_TOLD} (answers) and {layout.REQUESTS_TOLD} (calls) of the header" in SPEC


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """How SPEC.md writes a field's default."""
    if field.required:
        return "required"
    value: Any = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, msgspec.Struct):
        return "{}"
    if isinstance(value, str):
        return f'"{value}"'
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def test_every_section_that_is_named_exists() -> None:
    sections = set(re.findall(r"^#+ ([\d.]*\d)", SPEC, re.MULTILINE))
    assert set(re.findall(r"[Ss]ections? ([\d.]*\d)", SPEC)) <= sections
