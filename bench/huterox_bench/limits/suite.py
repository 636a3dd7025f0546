"""The suite of the limits alone."""

import os
from contextlib import ExitStack

from huterox_bench.limits.eventfd import EventfdRoundTrip
from huterox_bench.limits.zmq_proxy import ProxyChain, ZmqProxy
from huterox_bench.loads import SHAPES, Load
from huterox_bench.options import Options


def open_limits(options: Options, stack: ExitStack) -> list[Load]:
    """The eventfd round trip, also across two processors where there are as many, and the C proxy in every shape."""
    del options
    eventfds = [EventfdRoundTrip(stack)]
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        eventfds.append(EventfdRoundTrip(stack, (processors[0], processors[1])))
    chain = ProxyChain(stack)
    return [*eventfds, *(ZmqProxy(chain, shape) for shape in SHAPES)]
