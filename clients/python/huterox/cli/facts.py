"""The facts of events and refusals in words: units from their names, amounts, and who holds what. One line each."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from huterox.cli.render import megabytes, one_line, seconds_text

_SHOWN_MAX: Final = 8
"""Of a list inside a line."""

_LABELS: Final = {
    "load_s_expected": "expected to load in",
    "reload_s": "to load it again",
    "cost_s": "to load them again",
    "timings_s": "took",
    "waited_s": "waited",
    "waiting": "calls waiting",
    "nodes_in_all": "nodes",
}
"""Where the name alone does not read well."""


def facts_text(details: Mapping[str, Any]) -> str:
    """All facts of an event, in their order, apart by semicolons; empty where there are none."""
    told = [text for name, value in details.items() if (text := _fact(name, value))]
    return one_line("; ".join(told))


def amounts_text(amounts: Mapping[str, Any]) -> str:
    """`1 slot, 300 MB, 2.0 GB on GPU-8f2a`."""
    slots = amounts.get("slots", 0)
    parts = [f"{slots} slot{'s' * (slots != 1)}", megabytes(amounts.get("host_mb", 0))]
    if amounts.get("device_mb"):
        parts.append(f"{megabytes(amounts['device_mb'])} on {amounts.get('device') or 'a device'}")
    parts += [f"{megabytes(mb)} on {device}" for device, mb in (amounts.get("devices_mb") or {}).items()]
    return ", ".join(parts)


def help_text(details: Mapping[str, Any]) -> str:
    """What a refusal says that somebody could do; empty where it says nothing."""
    helps = details.get("would_help")
    if not isinstance(helps, list) or not helps:
        return ""
    soon = details.get("retry_after_s")
    when = f" (room may come in {seconds_text(soon)})" if isinstance(soon, int | float) else ""
    return f"what would help: {_some([str(text) for text in helps])}{when}"


def _fact(name: str, value: Any) -> str:
    if value is None or value == [] or value == {} or value == "":
        return ""
    if name == "nodes" and isinstance(value, list):
        return "; ".join(_node(node) for node in value if isinstance(node, Mapping))
    if name == "refault" and isinstance(value, Mapping):
        return _refault(value)
    if name == "load_s_expected" and not value:
        return ""  # nobody knows
    label = _LABELS.get(name) or _words(name)
    return f"{label} {_value(name, value)}"


def _words(name: str) -> str:
    for unit in ("_s", "_mb"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return _mapping(name, value)
    if isinstance(value, list):
        return _some([_value("", item) for item in value])
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_s") or "_s_" in name:
            return seconds_text(value)
        if name.endswith("_mb") or "_mb_" in name:
            return megabytes(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mapping(name: str, value: Mapping[str, Any]) -> str:
    if "slots" in value:
        return amounts_text(value)
    unit = "_s" if name.endswith("_s") else ""  # of a mapping whose values have the unit of its name
    return _some([f"{_LABELS.get(key) or _words(key)} {_value(key + unit, item)}" for key, item in value.items()])


def _node(node: Mapping[str, Any]) -> str:
    """`n1 has 1 slot, 140 MB of 8 slots, 400 MB free; held by yolo c1.2 (52 MB, pinned), ...`."""
    told = [f"{node.get('node')} has {amounts_text(node.get('free') or {})} free"]
    told[0] += f" of {amounts_text(node.get('capacity') or {})}"
    holders = [_holder(holder) for holder in node.get("held_by") or ()]
    if holders:
        told.append(f"held by {_some(holders, len(holders) + node.get('held_by_others', 0))}")
    if closed := node.get("closed_because"):
        told.append(f"takes no loads: {closed}")
    if base_mb := node.get("base_mb"):
        told.append(f"all its containers share {megabytes(base_mb)}")
    if taken := node.get("taken_by_others"):
        told.append(f"others have taken {amounts_text(taken)}")
    return "; ".join(told)


def _refault(refault: Mapping[str, Any]) -> str:
    needed = []
    if more_mb := refault.get("more_mb_would_have_kept_it"):
        needed.append(megabytes(more_mb))
    if more_slots := refault.get("more_slots_would_have_kept_it"):
        needed.append(f"{more_slots} slots")
    more = " and ".join(needed) or "nothing"
    gone = seconds_text(refault.get("gone_for_s", 0))
    return f"{more} more would have kept it (gone for {gone}, evicted for {refault.get('made_room_for')})"


def _holder(holder: Mapping[str, Any]) -> str:
    held = megabytes(holder.get("host_mb", 0))
    if holder.get("device_mb"):
        held += f" and {megabytes(holder['device_mb'])} on {holder.get('device')}"
    return f"{holder.get('model')} {holder.get('container')} ({held}: {holder.get('stays_because')})"


def _some(texts: Sequence[str], in_all: int | None = None) -> str:
    """The first of them, and how many more there are."""
    shown = list(texts[:_SHOWN_MAX])
    more = (len(texts) if in_all is None else in_all) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)
