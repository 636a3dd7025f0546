"""The typed meta maps between the switchboard and a kernel."""

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest

from huterox_wire import nodes
from huterox_wire.errors import InvalidInput
from huterox_wire.meta import encode_meta, meta_decoder

REPORT = nodes.ContainerReport(container=1, model="vad", version="1", state="ready", pid=7, busy_us=9)
USAGE = nodes.LaneUsage(service=1 << 32 | 9, calls=12, errors=1, busy_us=345, idle_us=6)
MODEL = nodes.ModelSpec(
    name="vad",
    entry="vad.py:Vad",
    runtime="torchscript",
    params={"threshold": 0.5, "nested": {"a": [1, None]}},
    resources=nodes.Resources(host_mb=300),
    inputs={"audio": nodes.InputSpec("float32", [None, 512])},
)
Decoder = Callable[[bytes], Any]


@pytest.mark.parametrize(
    ("decoder", "meta"),
    [
        (
            nodes.decode_register,
            nodes.RegisterMeta("n", "b", 5, "h", nodes.Capacity(2, 1 << 40), [REPORT], "0.1", "boot-id"),
        ),
        (
            nodes.decode_register,
            nodes.RegisterMeta(
                "n", "b", 5, "h", nodes.Capacity(2, 1), host_bytes_free=1 << 40, devices=[nodes.DeviceFree("GPU-1", 5)]
            ),
        ),
        (nodes.decode_registered, nodes.RegisteredMeta(3, 1.5, True)),
        (nodes.decode_heartbeat, nodes.HeartbeatMeta("n", "b", 123, [REPORT])),
        (nodes.decode_create, nodes.CreateMeta(3, 1 << 32 | 1, MODEL)),
        (nodes.decode_create, nodes.CreateMeta(3, 1 << 32 | 1, MODEL, "GPU-1", 1, 2, 3.5, 1 << 32 | 9)),
        (
            nodes.decode_heartbeat,
            nodes.HeartbeatMeta("n", "b", 1, [msgspec.structs.replace(REPORT, service=1 << 32 | 9, pid_started=8)]),
        ),
        (nodes.decode_close, nodes.CloseMeta(3, 1, "evicted", 0.5)),
        (nodes.decode_container_event, nodes.ContainerEvent(1, "gone", cause="crashed", timings_s={"fork": 0.1})),
        (
            nodes.decode_heartbeat,
            nodes.HeartbeatMeta("n", "b", 1, [msgspec.structs.replace(REPORT, lane_usage=[USAGE])]),
        ),
        (nodes.decode_container_event, nodes.ContainerEvent(1, "gone", requests=13, lane_usage=[USAGE])),
        (nodes.decode_container_event, nodes.ContainerEvent(1, "lane_broken", reason="t/s: kind 77")),
        (meta_decoder(nodes.LogArgs), nodes.LogArgs(1, -5, 10)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_a_meta_survives(decoder: Decoder, meta: msgspec.Struct) -> None:
    assert decoder(encode_meta(meta)) == meta


def test_a_model_has_the_documented_defaults() -> None:
    model = nodes.ModelSpec(name="m", entry="m.py:M")
    assert (model.version, model.runtime, model.device, model.services_per_container) == ("1", "python", "cpu", 10)
    assert (model.idle_timeout_s, model.load_timeout_s, model.resources.host_mb) == (600.0, 120.0, 256)


def created(**model: Any) -> bytes:
    return msgpack.packb({"epoch": 1, "container": 1, "model": {"name": "m", "entry": "m.py:M", **model}})


def test_a_model_is_decoded_with_defaults() -> None:
    assert nodes.decode_create(created()).model == nodes.ModelSpec(name="m", entry="m.py:M")


@pytest.mark.parametrize(
    "model",
    [
        {"treshold": 1},
        {"resources": {"host_gb": 1}},
        {"inputs": {"x": {"dtyp": "int8"}}},
        {"runtime": "onnx"},
        {"device": "tpu"},
        {"entry": ""},
        {"name": ""},
        {"services_per_container": 0},
        {"idle_timeout_s": -1},
        {"load_timeout_s": 0},
        {"resources": {"host_mb": -1}},
        {"inputs": {"x": {"shape": [-1]}}},
        {"idempotent": 1},
        {"version": 1},
    ],
    ids=str,
)
def test_a_model_with_a_mistake_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="CreateMeta is malformed"):
        nodes.decode_create(created(**model))


@pytest.mark.parametrize(
    ("decoder", "meta"),
    [
        (nodes.decode_register, {"node": "n", "boot": "b", "pid": 1, "host": "h"}),
        (nodes.decode_registered, {"epoch": 1}),
        (nodes.decode_heartbeat, {"boot": "b"}),
        (nodes.decode_container_event, {"container": 1, "what": "gone", "lane_usage": [[1, 2, 3, 4]]}),
        (nodes.decode_container_event, {"container": 1, "what": "gone", "lane_usage": [[1, 2, 3, 4, 0.5]]}),
        (
            nodes.decode_register,
            {"node": "n", "boot": "b", "pid": 1, "host": "h", "capacity": {}, "host_id": "h" * 65},
        ),
        (nodes.decode_close, {"epoch": 1}),
        (nodes.decode_container_event, {"container": 1, "what": "asleep"}),
        (nodes.decode_container_event, {"container": 1, "what": "gone", "cause": "bored"}),
        (meta_decoder(nodes.LogArgs), {"container": 1, "limit": 262145}),
    ],
)
def test_a_command_or_report_with_a_mistake_is_refused(decoder: Decoder, meta: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is malformed"):
        decoder(msgpack.packb(meta))


def test_reports_of_a_later_version_are_read() -> None:
    later = {**msgspec.to_builtins(REPORT), "gpu_bytes": 1}
    meta = {"node": "n", "boot": "b", "containers": [later], "later": None}
    assert nodes.decode_heartbeat(msgpack.packb(meta)).containers == [REPORT]
