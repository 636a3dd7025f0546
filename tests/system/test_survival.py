"""What survives what: kills, ends, two nodes, and nothing left behind."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.system.platform import Platform, eventually, model, running, serve

import huterox

pytestmark = pytest.mark.system


def running_call(service: huterox.Service, platform: Platform) -> "Future[dict[str, Any]]":
    """A long call of `Slow` that the model is executing."""
    mark = platform.folder.parent / "running"
    call = service.submit(seconds=20, mark=str(mark))
    eventually(mark.exists)
    return call


def last_word(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call answers that may overtake the news of its container's end: then it is lost too, and tried again."""
    try:
        return call()
    except huterox.WorkerLost as lost:
        assert lost.retryable
        return call()


def test_killed_container_ends_its_call_at_once_and_the_next_call_gets_a_fresh_one(own: Platform) -> None:
    with own.client(timeout=30.0) as client:
        service = serve(client, "Slow")
        pid = service(seconds=0)["pid"]
        call = running_call(service, own)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(huterox.WorkerLost) as caught:
            call.result(timeout=10)  # the model would have slept for longer
        assert caught.value.retryable
        assert caught.value.details["executed"] == "maybe"
        assert last_word(lambda: service(seconds=0))["pid"] != pid
        crash = eventually(lambda: [e for e in client.events() if e["kind"] == "crash"])
        assert "SIGKILL" in crash[0]["reason"]


def test_calls_that_a_killed_container_had_not_started_are_answered_by_the_next_one(own: Platform) -> None:
    with own.client(timeout=30.0) as client:
        service = serve(client, "Slow")
        pid = service(seconds=0)["pid"]
        running = running_call(service, own)
        queued = [service.submit(seconds=0) for _ in range(20)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(huterox.WorkerLost):
            running.result(timeout=10)
        fresh = {call.result(timeout=20)["pid"] for call in queued}
        assert len(fresh) == 1
        assert pid not in fresh


def test_a_cleaner_that_empties_the_folder_of_the_sockets_keeps_nobody_out(own: Platform) -> None:
    """As one of temporary folders does, once they have lain there for days."""
    with own.client(timeout=30.0) as before:
        service = serve(before, "Slow")
        pid = service(seconds=0)["pid"]
        sockets = [path for path in own.folder.iterdir() if path.is_socket()]
        assert {path.name for path in sockets} == {"switchboard.ipc", "kernels.ipc", "lanes.sock"}
        for path in [*sockets, *own.folder.glob("*.toml")]:
            path.unlink()
        second = own.command("up", "--dir", str(own.folder))
        assert (second.returncode, "Conflict" in second.stderr) == (1, True)
        eventually(lambda: all(path.is_socket() for path in sockets), 30.0)
        with own.client(timeout=30.0) as after:
            again = after.service("slow")
            assert again(seconds=0)["pid"] == pid
            eventually(lambda: again(seconds=0) and again.path == "lane", 30.0)
        assert service(seconds=0)["pid"] == pid
        os.kill(own.pid_of("kernel"), signal.SIGKILL)  # the next one finds its configuration and the switchboard
        eventually(lambda: last_word(lambda: service(seconds=0))["pid"] != pid, 60.0)


def test_container_that_exits_is_reported_with_its_code(own: Platform) -> None:
    with own.client(timeout=30.0) as client:
        service = serve(client, "Slow")
        with pytest.raises(huterox.WorkerLost):
            service.call("crash", code=7)
        crash = eventually(lambda: [e for e in client.events() if e["kind"] == "crash"])
        assert "7" in crash[0]["reason"]


def test_two_nodes_share_the_load_and_each_call_finds_its_own(own: Platform) -> None:
    config = own.folder.parent / "kernel2.toml"
    config.write_text(
        f'node = "second"\nswitchboard = "ipc://{own.folder}/kernels.ipc"\ndir = "{own.folder.parent / "k2"}"\n'
        'host_mb = 2048\nslots = 4\npreload = ["numpy"]\ndie_with_parent = false\n'
    )
    own_text = (own.folder / "connector.toml").read_text()
    back = next(line.split('"')[1] for line in own_text.splitlines() if line.startswith("back"))
    config.write_text(config.read_text().replace(f"ipc://{own.folder}/kernels.ipc", back))
    kernel = own.run("kernel", "--config", str(config))
    try:
        with own.client(timeout=30.0) as client:
            eventually(lambda: len(client.nodes()) == 2, 30.0)
            services = {name: serve(client, "Echo", name=name) for name in ("a", "b", "c", "d")}
            pids = {name: service.call("who")["pid"] for name, service in services.items()}
            rows = {row["model"]: row for row in client.containers()}
            assert {row["node"] for row in rows.values()} == {node["node"] for node in client.nodes()}
            for name, service in services.items():
                assert rows[name]["pid"] == pids[name]
                assert service.call("who")["pid"] == pids[name]
                np.testing.assert_array_equal(service(x=np.arange(9))["x"], np.arange(9))
            kernel.kill()
            kernel.wait(timeout=10)
            on_second = [name for name, row in rows.items() if row["node"] == "second"]
            eventually(lambda: len(client.nodes()) == 1)
            assert services[on_second[0]].call("who")["pid"] != pids[on_second[0]]
    finally:
        if kernel.poll() is None:
            kernel.kill()
            kernel.wait()
        assert kernel.stdout is not None
        kernel.stdout.close()


def test_switchboard_that_is_killed_finds_its_containers_again(own: Platform) -> None:
    with own.client(timeout=30.0) as client:
        service = serve(client, "Echo")
        pid = service.call("who")["pid"]
        os.kill(own.pid_of("connector"), signal.SIGKILL)

        def found_again() -> bool:
            try:
                return [row["pid"] for row in client.admin("ps", timeout=1.0)["rows"]] == [pid]
            except huterox.HuteroxError:
                return False

        eventually(found_again, 20.0)
        assert service.call("who")["pid"] == pid


def test_store_that_is_deleted_gives_nobody_anothers_model(own: Platform) -> None:
    """The kernel has seen a newer epoch, runs what nobody knows any more, and a caller has a lane to it."""
    with own.client(timeout=30.0) as client:
        old = serve(client, "Echo", name="old")
        pid = old.call("who")["pid"]
        eventually(lambda: old.call("who") and old.path == "lane")
        for store in own.folder.glob("huterox.db*"):
            if store.suffix != ".lock":
                store.unlink()
        os.kill(own.pid_of("connector"), signal.SIGKILL)

        def answers(verb: str, **args: Any) -> Any:
            try:
                return client.admin(verb, timeout=2.0, **args)
            except huterox.HuteroxError:
                return None

        eventually(lambda: answers("models") == {"rows": [], "next": ""}, 20.0)
        new = serve(client, "Slow", name="new")
        assert new(seconds=0)["pid"] != pid
        (event,) = [event for event in client.events() if event["kind"] == "store.younger"]
        assert "lost or replaced" in event["reason"]
        assert "lost or replaced" in client.nodes()[0]["note"]

        def is_not_found() -> bool:
            try:
                return not old.call("who")
            except huterox.NotFound:
                return True

        eventually(is_not_found, 20.0)
        eventually(lambda: pid not in own.processes())
        assert {row["model"] for row in client.containers()} == {"new"}


def test_kernel_that_is_killed_takes_its_containers_along_and_a_new_one_serves(own: Platform) -> None:
    with own.client(timeout=30.0) as client:
        service = serve(client, "Slow")
        pid = service(seconds=0)["pid"]
        call = running_call(service, own)
        os.kill(own.pid_of("kernel"), signal.SIGKILL)
        with pytest.raises(huterox.WorkerLost):
            call.result(timeout=10)
        eventually(lambda: pid not in own.processes())
        assert last_word(lambda: service.call("predict", timeout=30.0, seconds=0))["pid"] != pid


@pytest.mark.parametrize("how", ["ctrl-c", "terminate", "kill up", "kill connector then ctrl-c", "kill kernel then up"])
def test_nothing_is_left_behind(tmp_path: Path, how: str) -> None:
    with running(tmp_path / "d", "--slots", "4") as platform:
        with platform.client(timeout=30.0) as client:
            serve(client, "Echo")(x=np.zeros(1_000_000))
            client.service("echo").call("who")
        assert len(platform.processes()) >= 4  # up, connector, kernel, zygote, worker
        match how:
            case "ctrl-c":
                assert platform.stop(signal.SIGINT) == 0
            case "terminate":
                assert platform.stop(signal.SIGTERM) == 0
            case "kill up":
                platform.stop(signal.SIGKILL)
            case "kill connector then ctrl-c":
                os.kill(platform.pid_of("connector"), signal.SIGKILL)
                platform.stop(signal.SIGINT)
            case "kill kernel then up":
                os.kill(platform.pid_of("kernel"), signal.SIGKILL)
                platform.stop(signal.SIGKILL)
        eventually(lambda: not platform.processes())
        with running(tmp_path / "d", "--slots", "4") as again, again.client(timeout=30.0) as client:
            assert client.service("echo")(x=1) == {"x": 1}


def test_third_model_evicts_one_of_two_and_says_why(own: Platform, tmp_path: Path) -> None:
    with running(tmp_path / "two", "--slots", "2") as platform, platform.client(timeout=30.0) as client:
        first, second, third = (serve(client, "Echo", name=name) for name in ("first", "second", "third"))
        pids = [service.call("who")["pid"] for service in (first, second)]
        eventually(lambda: all(row["run_time_s"] > 1.5 for row in client.containers()))  # past their protection
        first(x=1)
        eventually(lambda: [row["hits"] for row in client.services()] == [2, 1, 0])  # told with heartbeats
        third.call("who")
        (evicted,) = [event for event in client.events() if event["kind"] == "evict"]
        assert "second" in evicted["subject"]
        assert "third" in evicted["reason"]
        assert {row["model"] for row in client.containers()} == {"first", "third"}
        assert first.call("who")["pid"] == pids[0]
        assert second.call("who")["pid"] != pids[1]
        rows = json.loads(platform.command("ps", "-o", "json").stdout)
        assert {
            "id",
            "model",
            "version",
            "algorithm",
            "node",
            "device",
            "state",
            "created_at",
            "run_time_s",
            "hits",
            "last_hit_at",
            "footprint_declared_mb",
            "footprint_measured_mb",
            "pid",
            "reason",
        } <= set(rows[0])


def test_pinned_models_are_not_evicted_and_the_refusal_tells_the_numbers(tmp_path: Path) -> None:
    with running(tmp_path / "two", "--slots", "1") as platform, platform.client(timeout=30.0) as client:
        client.deploy(model("pinned", "Echo"))
        client.create("pinned", model="pinned", tier="pinned")
        client.service("pinned")(x=1)
        with pytest.raises(huterox.ResourceInterrupt) as caught:
            serve(client, "Echo", name="other")(x=1)
        (node,) = caught.value.details["nodes"]
        assert node["held_by"][0]["stays_because"] == "pinned"


def test_logs_of_a_container_can_be_read_while_it_runs_and_after(own: Platform, tmp_path: Path) -> None:
    talk = tmp_path / "talk.py"
    talk.write_text("class Talk:\n    def predict(self, say):\n        print(say)\n        return say\n")
    with own.client(timeout=30.0) as client:
        client.deploy({**model("talk", "Talk"), "entry": f"{talk}:Talk"})
        client.create("talk", model="talk")
        client.service("talk")(say="hello from the model")
        eventually(lambda: "hello from the model" in own.command("logs", "talk").stdout)
        (container,) = [row["id"] for row in client.containers()]
        assert own.command("evict", container).returncode == 0
        eventually(lambda: not client.containers())
        assert "hello from the model" in own.command("logs", container).stdout
