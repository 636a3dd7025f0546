"""Vectors of leases and lanes: messages, and the two packets of the hand-over socket."""

from typing import Any

import msgpack
from building import Body, Head, good, nbytes_of, plain_json

Vector = dict[str, Any]

SERVICE = 1 << 32 | 9
CONTAINER = 1 << 32 | 7
TOKEN = bytes(range(32))


def messages() -> list[Vector]:
    """LEASE and DRAIN, and what kernels report of callers' lanes."""
    usage = [SERVICE, 12, 1, 34_567, 890]
    report = {"container": CONTAINER, "model": "vad", "version": "1", "state": "ready", "requests": 15}
    in_use = {**report, "lanes": 2, "lane_calls": 1, "lane_usage": [usage]}
    asked = {"host_id": "6d1c", "pid": 4711, "half_mb": 64, "ring_entries": 256}
    order = {"epoch": 3, "container": CONTAINER, "service": SERVICE, "title": "acme/cam"}
    leased = {"path": "/run/huterox/lanes.sock", "token": TOKEN, "container": CONTAINER}
    return [
        good(
            "lease",
            "LEASE of a caller: the service stands in the handle",
            Head("LEASE", handle=SERVICE, budget_us=1_000_000),
            Body("LeaseMeta", asked),
        ),
        good("lease-plain", "LEASE with nothing said: no lane can come of it", Head("LEASE"), Body("LeaseMeta", {})),
        good(
            "lease-order",
            "LEASE as the switchboard passes it on",
            Head("LEASE", handle=SERVICE, budget_us=990_000),
            Body("LeaseOrderMeta", {**order, "half_mb": 64, "ring_entries": 256, "pid": 4711}),
        ),
        good("lease-order-plain", "the same with the kernel's defaults", Head("LEASE"), Body("LeaseOrderMeta", order)),
        good("leased", "REPLY to LEASE: where the lane is, and the token", Head("REPLY"), Body("LeasedMeta", leased)),
        good(
            "lease-absent",
            "ERROR to LEASE: nothing is resident; a lease is no fault",
            Head("ERROR"),
            Body(
                "ErrorMeta",
                {"code": "Unavailable", "message": "absent", "retryable": True, "details": {"reason": "absent"}},
            ),
        ),
        good(
            "drain",
            "DRAIN",
            Head("DRAIN"),
            Body("DrainMeta", {"epoch": 3, "container": CONTAINER, "reason": "room for bert"}),
        ),
        good(
            "drain-service",
            "DRAIN",
            Head("DRAIN"),
            Body("DrainMeta", {"epoch": 3, "container": CONTAINER, "reason": "deleted", "service": 4294967303}),
        ),
        good(
            "register-host-id",
            "REGISTER of a kernel that gives lanes",
            Head("REGISTER"),
            Body(
                "RegisterMeta",
                {
                    "node": "n1",
                    "boot": "00ff",
                    "pid": 12,
                    "host": "h",
                    "capacity": {"slots": 2, "host_bytes": 1 << 40},
                    "containers": [in_use],
                    "host_id": "6d1c",
                    "host_bytes_free": 1 << 39,
                    "devices": [{"id": "GPU-1", "nbytes": 1 << 34}],
                    "base_bytes": 1 << 28,
                },
            ),
            canonical=False,
        ),
        good(
            "heartbeat-lanes",
            "HEARTBEAT: calls in lanes count in `requests` too",
            Head("HEARTBEAT"),
            Body("HeartbeatMeta", {"node": "n1", "boot": "00ff", "containers": [in_use]}),
            canonical=False,
        ),
        good(
            "heartbeat-usage-extra",
            "entries after a usage's fifth are ignored",
            Head("HEARTBEAT"),
            Body(
                "HeartbeatMeta",
                {"node": "n1", "boot": "00ff", "containers": [in_use]},
                raw=msgpack.packb(
                    {"node": "n1", "boot": "00ff", "containers": [{**in_use, "lane_usage": [[*usage, "later"]]}]}
                ),
            ),
        ),
        good(
            "event-drained",
            "EVENT: the last lane has ended",
            Head("EVENT"),
            Body("ContainerEvent", {"container": CONTAINER, "what": "drained"}),
        ),
        good(
            "event-lane-broken",
            "EVENT: a caller wrote nonsense into its lane",
            Head("EVENT"),
            Body("ContainerEvent", {"container": CONTAINER, "what": "lane_broken", "reason": "acme/cam: kind 77"}),
        ),
        good(
            "event-gone-usage",
            "EVENT: a container has gone, with its final totals",
            Head("EVENT"),
            Body(
                "ContainerEvent",
                {"container": CONTAINER, "what": "gone", "cause": "closed", "requests": 16, "lane_usage": [usage]},
            ),
        ),
    ]


def packet(name: str, description: str, meta_type: str, mark: bytes, meta: dict[str, Any], **extra: Any) -> Vector:
    data = mark + msgpack.packb(meta)
    defaults = {"message": "", "retryable": False, "details": {}} if meta_type == "ErrorMeta" else {}
    return {
        "name": name,
        "description": description,
        "meta_type": meta_type,
        "packet": data.hex(),
        "decoded": plain_json({**defaults, **meta}),
        **extra,
    }


def refused(name: str, description: str, meta_type: str, data: bytes, code: str = "InvalidInput") -> Vector:
    shown = data.hex() if len(data) <= 4096 else [[data[:1].hex(), 1], [data[1:2].hex(), len(data) - 1]]
    return {"name": name, "description": description, "meta_type": meta_type, "packet": shown, "code": code}


def handover() -> list[Vector]:
    """Packets of the hand-over socket: `decoded` is the value, `code` the refusal by whoever receives it."""
    hello = {"version": 1, "token": TOKEN}
    granted = {"container": CONTAINER, "generation": 2**64 - 1}
    hello_bytes = msgpack.packb(hello)
    grant_bytes = b"+" + msgpack.packb(granted)
    assert nbytes_of([(hello_bytes, 1)]) < 4096
    return [
        packet("hello", "a caller's hello", "LaneHello", b"", hello),
        packet("granted", "a grant; three descriptors travel with it", "LaneGranted", b"+", granted),
        packet("refused", "a refusal", "ErrorMeta", b"-", {"code": "Unauthorized", "message": "no such token"}),
        packet(
            "refused-facts",
            "a refusal with facts",
            "ErrorMeta",
            b"-",
            {"code": "Busy", "message": "full", "retryable": True, "details": {"retry_after_s": 1.0, "limit": 1024}},
        ),
        refused("hello-empty", "no bytes", "LaneHello", b""),
        refused("hello-version", "lanes of another version", "LaneHello", msgpack.packb({**hello, "version": 2})),
        refused("hello-no-token", "a hello without a token", "LaneHello", msgpack.packb({"version": 1})),
        refused("hello-token-empty", "a token of no bytes", "LaneHello", msgpack.packb({"version": 1, "token": b""})),
        refused("hello-token-text", "text is no token", "LaneHello", msgpack.packb({"version": 1, "token": "t"})),
        refused("hello-token-65", "a token too long", "LaneHello", msgpack.packb({"version": 1, "token": bytes(65)})),
        refused("hello-trailing", "a byte after the map", "LaneHello", hello_bytes + b"\0"),
        refused("hello-over", "a hello of more than 4096 bytes", "LaneHello", b"\x81" + bytes(4096), "TooLarge"),
        refused("grant-empty", "no bytes", "LaneGranted", b""),
        refused("grant-no-mark", "a grant without its mark", "LaneGranted", grant_bytes[1:]),
        refused("grant-mark", "another mark", "LaneGranted", b"*" + grant_bytes[1:]),
        refused("grant-truncated", "a grant that ends early", "LaneGranted", grant_bytes[:-1]),
        refused("grant-over", "a grant of more than 65536 bytes", "LaneGranted", b"+" + bytes(65536)),
        refused("refusal-empty", "a refusal of nothing", "LaneGranted", b"-"),
    ]


GOOD = {"good-leases": messages}
PACKETS = {"handover": handover}
