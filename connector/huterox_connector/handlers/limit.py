"""Bounds how often one peer may ask for what the core must think about. Calls have bounds of their own."""

from huterox_connector.handlers.pipeline import Context, Handler, Inbound
from huterox_wire.errors import Busy
from huterox_wire.kinds import Kind

_LIMITED = frozenset({Kind.OPEN, Kind.LEASE, Kind.ADMIN})


class Limit(Handler):
    """A token bucket for each peer: `rate_per_s` on average, `burst` at once.

    Buckets that are full again are forgotten, so the table holds only peers that asked lately.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._buckets: dict[bytes, tuple[float, float]] = {}  # peer -> tokens, and when that was so
        self._sweep_at_s = 0.0

    def inbound(self, context: Context, message: Inbound) -> None:
        if message.header.kind not in _LIMITED or self._take_token(message.peer, message.now_s):
            context.pass_on(message)
            return
        error = Busy(
            f"more than {self._rate_per_s:g} OPEN, LEASE and ADMIN messages per second from one peer",
            retry_after_s=1.0 / self._rate_per_s,
        )
        context.refuse(message, message.header.request_id, error)

    def _take_token(self, peer: bytes, now_s: float) -> bool:
        if now_s >= self._sweep_at_s:
            self._sweep(now_s)
        tokens, since_s = self._buckets.get(peer, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - since_s) * self._rate_per_s)
        granted = tokens >= 1.0
        self._buckets[peer] = (tokens - 1.0 if granted else tokens, now_s)
        return granted

    def _sweep(self, now_s: float) -> None:
        refill_s = self._burst / self._rate_per_s
        self._sweep_at_s = now_s + refill_s
        self._buckets = {peer: bucket for peer, bucket in self._buckets.items() if now_s - bucket[1] < refill_s}
