"""Bad input: one clear typed error at the right end, and everything else goes on."""

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from tests.system.platform import MODELS, Platform, model, serve

import huterox
from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.message import encode
from huterox_wire.meta import CallMeta, OpenMeta, TensorSpec, decode_error, encode_meta

pytestmark = pytest.mark.system


@contextmanager
def raw_caller(platform: Platform) -> Iterator[zmq.Socket]:
    """A socket that sends what it likes."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 10_000)
    socket.connect(platform.endpoint)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


@pytest.fixture(autouse=True)
def everything_else_goes_on(shared: Platform):  # type: ignore[no-untyped-def]
    """Before and after each mistake a bystander's calls work, in the same container."""
    with shared.client(timeout=30.0) as client:
        try:
            bystander = client.service("bystander")
            bystander.call("who")
        except huterox.NotFound:
            bystander = serve(client, "Echo", name="bystander")
        pid = bystander.call("who")["pid"]
        yield
        assert bystander.call("who")["pid"] == pid


def test_unknown_service_is_named(client: huterox.Client) -> None:
    with pytest.raises(huterox.NotFound, match="nobody") as caught:
        client.service("nobody")(x=1)
    assert caught.value.code == "NotFound"
    assert not caught.value.retryable


def test_unknown_method_is_named_with_those_there_are(client: huterox.Client) -> None:
    with pytest.raises(huterox.NotFound, match=r"wave.*who"):
        client.service("bystander").call("wave")
    with pytest.raises(huterox.NotFound):
        client.service("bystander").call("__init__")


def test_wrong_input_names_are_told_with_those_expected(client: huterox.Client) -> None:
    service = serve(client, "PlusOne", name="names")
    with pytest.raises(huterox.InvalidInput, match="x") as caught:
        service(y=np.zeros(3))
    assert "y" in caught.value.message
    with pytest.raises(huterox.InvalidInput, match="x"):
        service()


def test_wrong_dtype_or_shape_is_told_with_what_was_expected(client: huterox.Client) -> None:
    inputs = {"image": {"dtype": "float32", "shape": [1, 3, None, None]}}
    service = serve(client, "Strict", inputs=inputs)
    assert service(image=np.ones((1, 3, 8, 8), np.float32))["mean"] == 1.0
    for bad in (np.ones((1, 3, 8, 8)), np.ones((3, 8, 8), np.float32), np.ones((2, 3, 8, 8), np.float32), 5):
        with pytest.raises(huterox.InvalidInput, match=r"image.*float32"):
            service(image=bad)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        object(),
        {1: 2},
        [np.zeros(3)],
        {"a": {1, 2}},
        np.zeros((1,) * 9),
        2**70,
    ],
    ids=["object array", "text array", "object", "int key", "array in list", "set", "rank 9", "huge int"],
)
def test_value_that_cannot_be_carried_is_refused_before_it_is_sent(client: huterox.Client, value: object) -> None:
    with pytest.raises(huterox.InvalidInput):
        client.service("bystander")(x=value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entyr": "x"}, "entyr"),
        ({"runtime": "onnx"}, "onnx"),
        ({"name": ""}, "name"),
        ({"resources": {"host_gb": 1}}, "host_gb"),
        ({"max_batch": 8}, "batch"),
        ({"services_per_container": 0}, "services_per_container"),
    ],
)
def test_model_file_with_a_mistake_is_refused_with_the_key(client: huterox.Client, change: dict, said: str) -> None:
    with pytest.raises(huterox.InvalidInput, match=said):
        client.deploy({**model("mistaken", "Echo"), **change})
    assert "mistaken" not in [row["name"] for row in client.models()]


def test_model_file_on_disk_is_named_in_its_error(client: huterox.Client, tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text("name = [broken")
    with pytest.raises(huterox.InvalidInput, match=r"model\.toml"):
        client.deploy(str(path))
    with pytest.raises(huterox.HuteroxError, match=r"absent\.toml"):
        client.deploy(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no_such_package_anywhere:Model", "no_such_package_anywhere"),
        (f"{MODELS}:NoSuchClass", "NoSuchClass"),
        ("/no/such/file.py:Model", "/no/such/file.py"),
        (f"{MODELS}:BreaksAtLoad", "cursed"),
    ],
)
def test_model_that_does_not_load_says_why_to_its_caller(
    client: huterox.Client, request: pytest.FixtureRequest, entry: str, said: str
) -> None:
    name = f"broken-{request.node.callspec.indices['entry']}" if hasattr(request.node, "callspec") else "broken"
    client.deploy({**model(name, "Echo"), "entry": entry})
    client.create(name, model=name)
    with pytest.raises(huterox.ModelError) as caught:
        client.service(name)(x=1)
    assert said in caught.value.message + caught.value.details["traceback"]
    assert [e for e in client.events() if e["kind"] == "load_failed" and name in e["subject"]]


def test_model_that_raises_sends_its_traceback(client: huterox.Client) -> None:
    service = serve(client, "BreaksAtCall")
    with pytest.raises(huterox.ModelError, match="ZeroDivisionError") as caught:
        service(x=0)
    assert "return 1 // x" in caught.value.details["traceback"]
    assert service(x=1)["result"] == 1


def test_random_bytes_on_the_socket_are_answered_and_forgotten(shared: Platform) -> None:
    chance = random.Random(1)
    with raw_caller(shared) as socket:
        for number in range(200):
            socket.send_multipart([chance.randbytes(number * 7 % 300) for _ in range(1 + number % 4)])
        answers = [socket.recv() for _ in range(200)]
    assert all(b"InvalidInput" in answer or b"TooLarge" in answer for answer in answers)


@pytest.mark.parametrize(
    ("tensors", "count"),
    [([b"x" * 79], 1), ([b"x" * 81], 1), ([b"x" * 100_000], 1), ([], 0), ([b"x" * 80, b"y"], 2)],
    ids=["too short", "too long", "far too long", "missing", "one more"],
)
def test_tensor_description_whose_bytes_do_not_fit_is_refused(
    shared: Platform, client: huterox.Client, tensors: list[bytes], count: int
) -> None:
    meta = encode_meta(CallMeta("predict", {}, [TensorSpec("x", "float64", [10])]))
    with raw_caller(shared) as socket:
        socket.send_multipart(encode(Kind.OPEN, 1, 0, 0, encode_meta(OpenMeta("bystander"))))
        handle = unpack_header(socket.recv()).handle
        socket.send_multipart(encode(Kind.CALL, 2, handle, 20_000_000, meta, tensors))
        answer = socket.recv()
        assert unpack_header(answer).request_id == 2
        error = decode_error(answer[40:])
        assert error.code == "InvalidInput", error


def test_call_of_more_frames_than_a_message_has_is_refused(shared: Platform) -> None:
    with raw_caller(shared) as socket:
        socket.send_multipart(encode(Kind.OPEN, 1, 0, 0, encode_meta(OpenMeta("bystander"))))
        handle = unpack_header(socket.recv()).handle
        socket.send_multipart([pack_header(Kind.CALL, 0, 0, 2, handle, 20_000_000, 1), b"\x80", *[b"x"] * 500])
        assert decode_error(socket.recv()[40:]).code == "TooLarge"


def test_name_that_is_taken_is_a_conflict(client: huterox.Client) -> None:
    with pytest.raises(huterox.HuteroxError) as caught:
        client.create("bystander", model="bystander")
    assert caught.value.code == "Conflict"
    with pytest.raises(huterox.NotFound):
        client.create("another", model="no-such-model")


def test_second_up_on_the_same_folder_is_refused(shared: Platform) -> None:
    second = shared.command("up", "--dir", str(shared.folder))
    assert second.returncode != 0
    (line,) = second.stderr.strip().splitlines()[-1:]
    assert "another `huterox up` runs on" in line


def test_folder_whose_socket_path_is_too_long_is_refused(shared: Platform, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    refused = shared.command("up", "--dir", str(long))
    assert refused.returncode != 0
    assert "107" in refused.stderr
    assert not long.exists() or not any(long.iterdir())


def test_command_against_nothing_says_what_to_do(shared: Platform, tmp_path: Path) -> None:
    done = shared.command("ps", "--endpoint", f"ipc://{tmp_path}/nothing.ipc")
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "nothing.ipc" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
