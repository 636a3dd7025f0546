"""The suite of routed calls: `huterox up`, a model that adds one, and the SDK; each shape beside its limit."""

from contextlib import ExitStack

from huterox_bench.loads import Load
from huterox_bench.options import Options
from huterox_bench.sdk.calls import ROUTED
from huterox_bench.sdk.suite import Chain, beside_limits


def open_routed(options: Options, stack: ExitStack) -> list[Load]:
    """Every shape by the switchboard, lanes turned off."""
    chain = Chain(options, stack, ROUTED, lanes=False)
    return beside_limits(options, stack, chain.in_every_shape())
