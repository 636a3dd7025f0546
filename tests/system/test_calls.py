"""Calls end to end: what goes in comes out, whoever calls, whatever the size."""

import concurrent.futures
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.system.platform import Platform, eventually, serve

import huterox

pytestmark = pytest.mark.system

NUMERIC = [np.dtype(code) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]


@pytest.fixture(scope="module", params=["routed", "lane"])
def echo(shared: Platform, request: pytest.FixtureRequest) -> Iterator[huterox.Service]:
    """The same service by either way."""
    with shared.client(timeout=30.0, lanes=request.param == "lane") as client:
        try:
            service = client.service("echo")
        except huterox.NotFound:
            service = serve(client, "Echo")
        eventually(lambda: service.call("who") and service.path == request.param)
        yield service
        assert service.path == request.param


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_array_of_every_numeric_type_comes_back_bit_exact(echo: huterox.Service, dtype: np.dtype) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    result = echo(x=array)["x"]
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()


def test_strange_but_legal_arrays_are_carried(echo: huterox.Service) -> None:
    arrays = {
        "nan": np.array([math.nan, math.inf, -0.0]),
        "empty": np.zeros((0, 3), np.float32),
        "empty_inside": np.zeros((2, 0, 2)),
        "scalar": np.array(7, np.int16),
        "big_endian": np.arange(5, dtype=">i4"),
        "transposed": np.arange(6).reshape(2, 3).T,
        "strided": np.arange(20)[::3],
    }
    results = echo(**arrays)
    for name, array in arrays.items():
        assert results[name].shape == array.shape
        np.testing.assert_array_equal(results[name], array)


def test_plain_values_come_back_as_they_went(echo: huterox.Service) -> None:
    values = {
        "none": None,
        "true": True,
        "int": -(2**63),
        "float": 0.1,
        "text": "grüße 🌍",
        "bytes": b"\x00\xff",
        "blob": bytes(range(256)) * 100,
        "list": [1, [2.5, "x"], {"k": None}],
        "map": {"a": {"b": [b"c"]}},
    }
    assert echo(**values) == values


def test_hundred_megabytes_come_back_bit_exact(echo: huterox.Service) -> None:
    array = np.random.default_rng(1).integers(0, 256, 100 * 1024 * 1024, np.uint8)
    result = echo(x=array)["x"]
    assert np.array_equal(result, array)


def test_many_threads_and_clients_never_mix_their_answers(shared: Platform, echo: huterox.Service) -> None:
    failures: list[str] = []

    def work(seed: int, service: huterox.Service) -> None:
        random = np.random.default_rng(seed)
        for number in range(40):
            payload = random.integers(0, 2**31, int(random.integers(1, 3000)))
            result = service(x=payload, tag=f"{seed}-{number}")
            if result["tag"] != f"{seed}-{number}" or not np.array_equal(result["x"], payload):
                failures.append(f"{seed}-{number} got {result['tag']}")

    with shared.client(timeout=30.0) as one, shared.client(timeout=30.0) as two:
        services = [one.service("echo"), two.service("echo"), echo]
        threads = [threading.Thread(target=work, args=(seed, services[seed % 3])) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures


def test_sixty_four_calls_in_flight_on_one_connection_get_their_own_answers(echo: huterox.Service) -> None:
    pending: dict[concurrent.futures.Future, int] = {}
    for number in range(1000):
        if len(pending) >= 64:
            done, _ = concurrent.futures.wait(pending, timeout=30, return_when=concurrent.futures.FIRST_COMPLETED)
            assert done
            for future in done:
                assert future.result()["n"] == pending.pop(future)
        pending[echo.submit(n=number, x=np.full(10, number))] = number
    for future, number in pending.items():
        result = future.result(timeout=30)
        assert result["n"] == number
        assert (result["x"] == number).all()


def test_methods_are_called_by_name(echo: huterox.Service) -> None:
    assert set(echo.call("who")) == {"pid", "params"}


def test_array_result_without_a_name_is_called_result(client: huterox.Client) -> None:
    service = serve(client, "PlusOne")
    np.testing.assert_array_equal(service(x=np.arange(5))["result"], np.arange(1, 6))


def test_generator_streams_its_parts_in_order(client: huterox.Client) -> None:
    service = serve(client, "Counts")
    parts = list(service.stream(count=50))
    assert [part["number"] for part in parts] == list(range(50))
    assert int(parts[7]["square"]) == 49
    with pytest.raises(huterox.InvalidInput, match="stream"):
        service(count=2)


def test_params_reach_the_constructor(client: huterox.Client) -> None:
    service = serve(client, "Echo", name="with-params", params={"threshold": 0.5, "names": ["a", "b"]})
    assert service.call("who")["params"] == {"threshold": 0.5, "names": ["a", "b"]}


@pytest.mark.torch
def test_bfloat16_reaches_a_torch_model_as_tensor_and_comes_back(client: huterox.Client) -> None:
    torch = pytest.importorskip("torch")
    service = serve(client, "Doubles", host_mb=400)
    for dtype in (torch.bfloat16, torch.float32, torch.int64):
        tensor = torch.arange(6).reshape(2, 3).to(dtype)
        result = service(x=tensor)["result"]
        assert str(result.dtype) == str(dtype).removeprefix("torch.")
        assert result.astype("float64").tolist() == [[0, 2, 4], [6, 8, 10]]


def test_asyncio_client_serves_many_calls_at_once(shared: Platform, echo: huterox.Service) -> None:
    import asyncio

    async def main() -> list[int]:
        async with huterox.aconnect(shared.endpoint, timeout=30.0) as client:
            service = await client.service("echo")
            results = await asyncio.gather(*(service(n=number) for number in range(100)))
            return [result["n"] for result in results]

    assert asyncio.run(main()) == list(range(100))


KILLED_CALLER = """
import sys, huterox
endpoint, mark, done = sys.argv[1:]
client = huterox.connect(endpoint, timeout=60.0, lanes=False)
stream = client.service("left").stream("drip", mark=mark)
next(stream)
waiting = client.service("left").submit(mark=done, seconds=0.0)
print("under way", flush=True)
for part in stream:
    pass
"""


def test_container_is_free_soon_after_its_caller_was_killed(
    shared: Platform, client: huterox.Client, tmp_path: Path
) -> None:
    """The stream that ran for it ends, and the call that waited behind that is not begun."""
    serve(client, "Slow", "left", replicas_max=1)
    mark, done = tmp_path / "mark", tmp_path / "done"
    command = [sys.executable, "-c", KILLED_CALLER, shared.endpoint, str(mark), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "under way\n"
        eventually(lambda: client.status()["calls_in_flight"] == 2)
        caller.kill()
    answer = client.service("left").call(seconds=0.0, timeout=10.0)  # the stream alone would go on for longer
    assert answer["pid"]
    assert mark.exists()
    assert not done.exists()


def test_importing_the_sdk_brings_no_server_and_no_torch() -> None:
    heavy = ("torch", "uvloop", "psutil", "huterox_connector", "huterox_kernel")
    code = f"import sys, huterox; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]"
