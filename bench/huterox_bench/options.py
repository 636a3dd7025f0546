"""What the command line says."""

from dataclasses import dataclass, field

from huterox_bench.measure import Plan


@dataclass(frozen=True, slots=True)
class Options:
    """Of every suite. `endpoint`: a switchboard that runs already; None: start one."""

    plan: Plan = field(default_factory=Plan)
    endpoint: str | None = None
