"""The pipeline and each of its handlers."""

from typing import Any

import pytest
from tests.connector.harness import Harness

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.handlers.decode import CALLER_METAS, KERNEL_METAS, Decode
from huterox_connector.handlers.dispatch import Dispatch, event_of_caller, event_of_kernel
from huterox_connector.handlers.limit import Limit
from huterox_connector.handlers.pipeline import Context, Handler, Inbound, Pipeline
from huterox_wire.errors import HuteroxError
from huterox_wire.header import pack_header
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeaseMeta
from huterox_wire.message import encode
from huterox_wire.meta import AdminMeta, OpenMeta, encode_meta

PEER = b"peer"


class Outlet:
    def __init__(self) -> None:
        self.effects: list[asked.Effect] = []
        self.refused: list[tuple[bytes, int, HuteroxError]] = []

    def perform(self, effects: list[asked.Effect]) -> None:
        self.effects += effects

    def refuse(self, peer: bytes, request_id: int, error: HuteroxError) -> None:
        self.refused.append((peer, request_id, error))


class Keep(Handler):
    """Ends a pipeline and keeps what reaches it."""

    def __init__(self) -> None:
        self.kept: list[Inbound] = []

    def inbound(self, context: Context, message: Inbound) -> None:
        self.kept.append(message)


@pytest.fixture
def outlet() -> Outlet:
    return Outlet()


@pytest.fixture
def keep() -> Keep:
    return Keep()


def admin(verb: str = "status", request_id: int = 5, **args: Any) -> list[Any]:
    return encode(Kind.ADMIN, request_id, 0, 0, encode_meta(AdminMeta(verb, args)))


def test_message_passes_the_handlers_in_order(outlet: Outlet, keep: Keep) -> None:
    Pipeline([Handler(), Decode(CALLER_METAS), keep], outlet).inbound(PEER, admin(), 0.0)
    (message,) = keep.kept
    assert (message.peer, message.header.kind, message.meta) == (PEER, Kind.ADMIN, AdminMeta("status"))


@pytest.mark.parametrize(
    ("frames", "request_id"),
    [
        ([], 0),
        ([b""], 0),
        ([b"random bytes that are no header but long enough"], None),
        ([b"x" * 20], 0),
        ([admin()[0][:-1]], 5),
        ([admin()[0] + b"x"], 5),
        ([pack_header(Kind.CALL, 0, 3, 5), b""], 5),
        (encode(Kind.ADMIN, 5, 0, 0, b"\xc1"), 5),
        (encode(Kind.OPEN, 5, 0, 0, encode_meta(OpenMeta("s")) + b"\x00"), 5),
    ],
)
def test_malformed_message_is_refused_with_its_request_id(
    outlet: Outlet, keep: Keep, frames: list[bytes], request_id: int | None
) -> None:
    Pipeline([Decode(CALLER_METAS), keep], outlet).inbound(PEER, frames, 0.0)
    ((peer, answered_id, error),) = outlet.refused
    assert (peer, error.code, keep.kept) == (PEER, "InvalidInput", [])
    assert request_id is None or answered_id == request_id


def test_meta_of_a_call_is_not_looked_at(outlet: Outlet, keep: Keep) -> None:
    Pipeline([Decode(CALLER_METAS), keep], outlet).inbound(PEER, encode(Kind.CALL, 1, 2, 3, b"\xc1garbage"), 0.0)
    assert len(keep.kept) == 1


def test_peer_over_its_rate_is_refused_and_others_are_not(outlet: Outlet, keep: Keep) -> None:
    pipeline = Pipeline([Decode(CALLER_METAS), Limit(rate_per_s=10.0, burst=2), keep], outlet)
    for request_id in range(3):
        pipeline.inbound(PEER, admin(request_id=request_id), 0.0)
    assert [(request_id, error.code) for _, request_id, error in outlet.refused] == [(2, "Busy")]
    pipeline.inbound(b"other", admin(), 0.0)
    pipeline.inbound(PEER, admin(), 0.1)  # one token has come back
    assert len(keep.kept) == 4


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.LEASE, Kind.ADMIN])
def test_what_the_core_must_think_about_is_rate_limited(outlet: Outlet, keep: Keep, kind: Kind) -> None:
    meta = {Kind.OPEN: OpenMeta("s"), Kind.LEASE: LeaseMeta("h"), Kind.ADMIN: AdminMeta("ps")}[kind]
    pipeline = Pipeline([Decode(CALLER_METAS), Limit(rate_per_s=1.0, burst=1), keep], outlet)
    for request_id in range(2):
        pipeline.inbound(PEER, encode(kind, request_id, 0, 0, encode_meta(meta)), 0.0)
    assert [error.code for _, _, error in outlet.refused] == ["Busy"]


@pytest.mark.parametrize("meta", [b"", b"\x80\x00", b"\xc1", b"\x81\xa3pid\xff"])
def test_malformed_lease_is_refused(outlet: Outlet, keep: Keep, meta: bytes) -> None:
    Pipeline([Decode(CALLER_METAS), keep], outlet).inbound(PEER, encode(Kind.LEASE, 5, 7, 0, meta), 0.0)
    ((_, request_id, error),) = outlet.refused
    assert (request_id, error.code, keep.kept) == (5, "InvalidInput", [])


def test_calls_are_not_rate_limited(outlet: Outlet, keep: Keep) -> None:
    pipeline = Pipeline([Decode(CALLER_METAS), Limit(rate_per_s=1.0, burst=1), keep], outlet)
    for request_id in range(100):
        pipeline.inbound(PEER, encode(Kind.CALL, request_id, 2, 3, b"\x80"), 0.0)
    assert len(keep.kept) == 100


def test_limit_forgets_peers_that_no_longer_ask(outlet: Outlet, keep: Keep) -> None:
    limit = Limit(rate_per_s=10.0, burst=10)
    pipeline = Pipeline([Decode(CALLER_METAS), limit, keep], outlet)
    for number in range(1000):
        pipeline.inbound(b"peer%d" % number, admin(), 0.0)
    pipeline.inbound(PEER, admin(), 60.0)
    assert len(limit._buckets) == 1


@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.REGISTER, Kind.EVENT, Kind.CREATE, Kind.DRAIN])
def test_caller_may_not_send_what_is_not_a_callers(outlet: Outlet, kind: Kind) -> None:
    pipeline = Pipeline([Decode(CALLER_METAS), Dispatch(Harness().board, "caller", event_of_caller)], outlet)
    pipeline.inbound(PEER, encode(kind, 9, 0, 0, b"\x80"), 0.0)
    ((_, request_id, error),) = outlet.refused
    assert (request_id, error.code) == (9, "InvalidInput")
    assert kind.name in error.message


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.ADMIN, Kind.OPEN, Kind.REPLY, Kind.LEASE])
def test_kernel_may_not_send_what_is_not_a_kernels(outlet: Outlet, kind: Kind) -> None:
    pipeline = Pipeline([Decode(KERNEL_METAS), Dispatch(Harness().board, "kernel", event_of_kernel)], outlet)
    pipeline.inbound(PEER, encode(kind, 9, 0, 0, b"\x80"), 0.0)
    assert outlet.refused[0][2].code == "InvalidInput"


@pytest.mark.parametrize(
    ("budget_us", "waited_s", "left_us"), [(900_000, 0.25, 650_000), (900_000, 7.0, 1), (0, 7.0, 0)]
)
def test_time_in_line_is_taken_from_what_the_sender_gives(
    keep: Keep, budget_us: int, waited_s: float, left_us: int
) -> None:
    pipeline = Pipeline([Decode(CALLER_METAS), keep], Outlet())
    pipeline.inbound(PEER, encode(Kind.CALL, 7, 99, budget_us, b"\x80"), 0.0)
    pipeline.inbound(PEER, encode(Kind.LEASE, 8, 99, budget_us, encode_meta(LeaseMeta("h"))), 0.0)
    for message in keep.kept:
        message.waited_s = waited_s
        event = event_of_caller(message)
        assert isinstance(event, happened.CallMissed | happened.LeaseRequested)
        assert event.budget_us == left_us


def test_callers_messages_reach_the_core(outlet: Outlet) -> None:
    harness = Harness()
    pipeline = Pipeline([Decode(CALLER_METAS), Dispatch(harness.board, "caller", event_of_caller)], outlet)
    pipeline.inbound(PEER, admin("models"), 0.0)
    pipeline.inbound(PEER, encode(Kind.OPEN, 6, 0, 0, encode_meta(OpenMeta("nobody"))), 0.0)
    pipeline.inbound(PEER, encode(Kind.CALL, 7, 99, 0, b"\x80"), 0.0)
    pipeline.inbound(PEER, encode(Kind.LEASE, 8, 99, 0, encode_meta(LeaseMeta("h"))), 0.0)
    pipeline.inbound(PEER, encode(Kind.CANCEL, 7, 0, 0, b""), 0.0)
    answer, not_open, no_handle, no_lease = outlet.effects
    assert isinstance(answer, asked.Answer)
    assert isinstance(not_open, asked.Refuse)
    assert isinstance(no_handle, asked.Refuse)
    assert isinstance(no_lease, asked.Refuse)
    assert [not_open.error.code, no_handle.error.code, no_lease.error.code] == ["NotFound"] * 3
