"""SPEC.md's tables of the operator's verbs say what the core takes and answers."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.connector.harness import Harness, args_of_verbs, refused

from huterox_wire.errors import ResourceInterrupt

SPEC = (Path(__file__).parents[3] / "wire" / "SPEC.md").read_text(encoding="utf-8")

ARGS = args_of_verbs()


def table(header: str) -> dict[str, list[str]]:
    """The rows of the table with this header, by their first cell."""
    found = {}
    for line in SPEC[SPEC.index(header) :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[cells[0]] = cells
    return found


VERBS = table("| verb | args | result |")
ROWS = table("| page of | each row |")


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z_0-9]+", text))


def written_args(text: str) -> dict[str, str | None]:
    """Names and defaults: `name, force = false`."""
    if text == "–":
        return {}
    text = re.sub(r"\(.*?\)", "", text)
    parts = [re.match(r"(\w+)(?:: [^=]*)?(?: = (.*))?$", part.strip()) for part in text.split(",")]
    return {part[1]: part[2] for part in parts if part is not None}


def coded_args(struct: type[Any]) -> dict[str, str | None]:
    def default(field: msgspec.structs.FieldInfo) -> str | None:
        if field.required:
            return None
        value = {} if field.default is msgspec.NODEFAULT else field.default
        return msgspec.json.encode(value).decode()

    return {field.name: default(field) for field in msgspec.structs.fields(struct)}


def test_the_verbs_are_those_of_the_core(harness: Harness) -> None:
    (refusal,) = refused(harness.admin("no-such-verb"))
    assert set(refusal.error.details["known"]) == set(VERBS) == set(ARGS)


@pytest.mark.parametrize("verb", sorted(ARGS))
def test_the_arguments_are_those_of_the_core(verb: str) -> None:
    assert written_args(VERBS[verb][1]) == coded_args(ARGS[verb])


def test_every_field_of_a_row_is_told_of(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert", in_flight_max=3, info={"owner": "ops"})
    harness.load(node, "bert", 1)
    for page, rows in {
        "models": harness.ask("models"),
        "services": harness.ask("services"),
        "containers": harness.ask("ps"),
        "nodes": harness.ask("nodes"),
        "usage by tenant": harness.ask("usage"),
        "usage by service": harness.ask("usage", by="service"),
    }.items():
        (row,) = rows
        amounts = {"calls", "errors", "busy_s", "host_byte_s", "device_byte_s", "faults", "refused"}
        assert set(row) - amounts <= words(ROWS[page][1]), page
    assert amounts <= words(SPEC[SPEC.index("*usage* is:") :].split("\n\n")[0])
    assert set(harness.ask("status")) <= words(VERBS["status"][2])
    assert {"events", "next", "more"} == set(harness.ask("events")) <= words(VERBS["events"][2])


def test_every_fact_of_a_refusal_is_told_of(harness: Harness) -> None:
    node = harness.node(host_mb=100)
    harness.service("bert", tier="pinned")
    harness.load(node, "bert", 1)
    harness.service("llama")
    (refusal,) = refused(harness.call("llama", 2))
    assert isinstance(refusal.error, ResourceInterrupt)
    facts = table("| fact | |")
    assert set(refusal.error.details) <= set(facts)
    (told,) = refusal.error.details["nodes"]
    assert set(told) <= words(facts["nodes"][1])
    assert set(told["held_by"][0]) <= words(facts["held_by"][1])
