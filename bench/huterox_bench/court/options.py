"""What the command line of `huterox simulate` says."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any, Final

import msgspec

from huterox.cli.parser import Parser
from huterox_bench.court.generators import KINDS, Plan
from huterox_bench.court.replay import Settings
from huterox_bench.court.traces import SIZE_MAX_MB
from huterox_bench.court.trial import ALL, JUDGED
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.placement import PLACEMENTS
from huterox_wire.errors import InvalidInput

ABOVE_ZERO: Final = {"call_timeout_s", "heartbeat_s", "accessed_window_s", "hot_half_life_s"}
CAPACITIES_MAX: Final = 32

_EPILOG = f"""\
A call is a hit (its container was ready when it came), a miss (a load was begun for it), joined (it waited for a load
that was begun for another call) or refused (it ended with an error: no room, or no time). Waits last from a call's
arrival until its container begins to work on it; those of refused calls are not in them.

policies: {", ".join(JUDGED)}; several with commas, or {ALL}.
`opt` is a replacer that knows the future; `bound` is what no schedule can do without. The bound and --plot need
`pip install scipy matplotlib`.

traces that --generate makes: {", ".join(KINDS)}

examples:
  huterox simulate --generate zipf --requests 20000 --models 80 --seed 7 --write zipf.csv
  huterox simulate --trace zipf.csv --policy lru --capacity-mb 16000 -o json
  huterox simulate --trace zipf.csv --policy all --capacity-mb 8000,16000,32000 --plot zipf.png
  huterox simulate --generate scans --policy lru,sieve,bound --capacity-mb 16000 --set hotter_factor=0"""


class _Parser(Parser):
    """Which options need each other."""

    def parse_args(self, arguments: Any = None, namespace: Any = None) -> Any:
        chosen = super().parse_args(arguments, namespace)
        if chosen.trace is not None:
            given = [
                field.name for field in fields(Plan) if field.name != "seed" and getattr(chosen, field.name) is not None
            ]
            if given:
                self.error(f"--{given[0]} is for --generate")
            if chosen.policy is None:
                self.error("--trace needs --policy")
        if chosen.policy is not None and chosen.capacity_mb is None:
            self.error("--policy needs --capacity-mb")
        if chosen.plot is not None and chosen.policy is None:
            self.error("--plot needs --policy")
        return chosen


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        prog="huterox simulate",
        description="Replay a trace through the real core of the switchboard, with simulated kernels and a simulated\n"
        "clock, and tell what each replacement policy costs: misses, seconds of loading, waits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--trace", type=Path, metavar="FILE", help="CSV: time_s,tenant,model,size_mb,load_s,service_s")
    which.add_argument("--generate", choices=list(KINDS), metavar="KIND", help="make a trace; printed without --policy")
    made.add_argument("--policy", metavar="P", help=f"who leaves: one of those below, or some, or {ALL}")
    made.add_argument(
        "--capacity-mb", type=_capacities, metavar="N[,N]", help="memory of a node for containers, in MiB"
    )
    made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json: one JSON document")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw misses, loading and waits: .png, .pdf or .svg")
    made.add_argument("--write", type=Path, metavar="FILE", help="write the trace to FILE")

    of_trace = made.add_argument_group("options of --generate")
    defaults = Plan()
    for name, kind, what in (
        ("requests", int, "how many"),
        ("models", int, "how many"),
        ("tenants", int, "how many"),
        ("rate", float, "calls per second"),
        ("skew", float, "exponent of Zipf's law"),
        ("seed", int, "of all that is drawn at random; a replay draws nothing"),
    ):
        of_trace.add_argument(f"--{name}", type=kind, metavar="N", help=f"{what} (default: {getattr(defaults, name)})")

    of_replay = made.add_argument_group("options of a replay")
    of_replay.add_argument("--nodes", type=_count, default=1, metavar="N", help="each with that memory (default: 1)")
    of_replay.add_argument("--slots", type=_count, metavar="N", help="containers that a node takes (default: all)")
    of_replay.add_argument(
        "--replicas", type=_count, default=1, metavar="N", help="containers that a model may have (default: 1)"
    )
    of_replay.add_argument(
        "--call-timeout", type=_above_zero, metavar="S", help="time of each call (default: the core's)"
    )
    of_replay.add_argument("--idle-timeout", type=_above_zero, metavar="S", help="close what is idle (default: never)")
    of_replay.add_argument(
        "--unload", type=_seconds, default=0.1, metavar="S", help="until memory is back (default: %(default)s)"
    )
    of_replay.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of [core], e.g. hotter_factor=0"
    )
    return made


def _capacities(text: str) -> list[float]:
    values = [_number(part) for part in text.split(",")]
    if not all(1 <= value <= SIZE_MAX_MB for value in values) or len(values) > CAPACITIES_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {CAPACITIES_MAX} sizes from 1 to {SIZE_MAX_MB:g} MB")
    return list(dict.fromkeys(values))


def _count(text: str) -> int:
    value = _number(text)
    if value != int(value) or not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 1000")
    return int(value)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 86400 seconds")
    return value


def _above_zero(text: str) -> float:
    if not (value := _seconds(text)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def plan_of(chosen: argparse.Namespace) -> Plan:
    """What --generate is to make."""
    given = {field.name: getattr(chosen, field.name) for field in fields(Plan)}
    return Plan(**{name: value for name, value in given.items() if value is not None})


def settings_of(chosen: argparse.Namespace) -> Settings:
    """Of a replay, at the first capacity. Raises InvalidInput for what the core does not know."""
    core = _core(chosen.set)
    if chosen.call_timeout is not None:
        core = msgspec.structs.replace(core, call_timeout_s=chosen.call_timeout)
    more = {} if chosen.idle_timeout is None else {"idle_timeout_s": chosen.idle_timeout}
    return Settings(
        chosen.capacity_mb[0],
        nodes=chosen.nodes,
        slots=chosen.slots,
        replicas_max=chosen.replicas,
        unload_s=chosen.unload,
        core=core,
        **more,
    )


def _core(pairs: Sequence[str]) -> CoreConfig:
    """The core's settings, from KEY=VALUE. Raises InvalidInput for what is not one."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"--set {pair!r} is not KEY=VALUE")
        if key in ("policy", "node_policies"):
            raise InvalidInput(f"--set {key}: say --policy")
        given[key] = value
    try:
        core = msgspec.convert(given, CoreConfig, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"--set: {exc}; see `huterox config show --effective`") from exc
    if core.placement not in PLACEMENTS:
        raise InvalidInput(f"--set placement: {core.placement!r} is unknown; known are {', '.join(PLACEMENTS)}")
    for key in given:
        value = getattr(core, key)
        if isinstance(value, int | float) and (not isfinite(value) or value < 0 or (key in ABOVE_ZERO and not value)):
            raise InvalidInput(f"--set {key}: {value} is not {'above' if key in ABOVE_ZERO else 'at least'} 0")
    return core
