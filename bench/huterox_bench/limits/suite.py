"""The suite of the limits alone."""

from contextlib import ExitStack

from huterox_bench.limits.eventfd import EventfdRoundTrip
from huterox_bench.limits.zmq_proxy import ProxyChain, ZmqProxy
from huterox_bench.loads import SHAPES, Load
from huterox_bench.options import Options


def open_limits(options: Options, stack: ExitStack) -> list[Load]:
    """The eventfd round trip, and the C proxy in every shape."""
    del options
    eventfd = EventfdRoundTrip(stack)
    chain = ProxyChain(stack)
    return [eventfd, *(ZmqProxy(chain, shape) for shape in SHAPES)]
