"""The suite of lanes: the same calls as the routed suite's through shared memory, and what sharing does to them."""

from contextlib import ExitStack
from typing import Final

from huterox_bench.lane.crowd import Crowd
from huterox_bench.loads import LARGE_NBYTES, SMALL_NBYTES, Load, Shape
from huterox_bench.options import Options
from huterox_bench.sdk.calls import LANE, ServiceCalls
from huterox_bench.sdk.services import create_service
from huterox_bench.sdk.suite import Chain, beside_limits

CALLERS: Final = 4
"""That share a container."""

CONTAINERS: Final = 8
"""That share the node, one caller each."""

IN_FLIGHT: Final = 64
"""Of all callers together."""


def open_lane(options: Options, stack: ExitStack) -> list[Load]:
    """Every shape; a method that only looks at its input, whose size then should not matter; callers that share a
    container, and containers that share the node."""
    chain = Chain(options, stack, LANE, lanes=True)
    peeks = [
        ServiceCalls(chain.service, LANE, Shape(1, nbytes), "lane_peek", "peek")
        for nbytes in (SMALL_NBYTES, LARGE_NBYTES)
    ]
    own = [create_service(chain.client, stack, chain.model, f"-{number}") for number in range(CONTAINERS)]
    crowds = [
        Crowd("lane_shared", chain.endpoint, [chain.name] * CALLERS, Shape(IN_FLIGHT, SMALL_NBYTES), stack),
        Crowd("lane_crowd", chain.endpoint, own, Shape(IN_FLIGHT, SMALL_NBYTES), stack),
    ]
    return beside_limits(options, stack, [*chain.in_every_shape(), *peeks, *crowds])
