"""What the operator sees and does, by the command, on a real platform: the names that scripts rely on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.platform import Platform, eventually, running
from tests.system.traffic import INPUT, matrix

import huterox

pytestmark = pytest.mark.system

# What the outside relies on; more may be there.
CONTAINER = """id model version algorithm node device state created_at run_time_s hits last_hit_at footprint_declared_mb
    footprint_measured_mb pid reason"""
SERVICE = "id name tenant model tier state container hits last_hit_at usage"
EVENT = "at kind subject reason details"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Room for two of three models; the third has evicted one of the others."""
    with running(tmp_path_factory.mktemp("up") / "d", "--slots", "2", "--host-mb", "1024") as platform:
        with platform.client(timeout=30.0, lanes=False) as client:
            for name in ("a", "b", "c"):
                client.deploy(matrix(name, 8))
                client.create(name, model=name, tenant="acme", info={"owner": "ops"})
                client.service(name, tenant="acme")(x=INPUT)
        yield platform


def said(platform: Platform, *arguments: str) -> str:
    done = platform.command(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def document(platform: Platform, *arguments: str) -> Any:
    return json.loads(said(platform, *arguments, "-o", "json"))


def absent_model(platform: Platform) -> str:
    """The one of the three that is not resident."""
    (absent,) = {"a", "b", "c"} - {row["model"] for row in document(platform, "ps")}
    return absent


def test_lists_have_the_fields_that_scripts_rely_on(platform: Platform) -> None:
    containers = document(platform, "ps")
    assert len(containers) == 2
    assert all(set(CONTAINER.split()) <= set(row) for row in containers)
    assert all({"fork", "import", "load", "warmup"} <= set(row["timings_s"]) for row in containers)
    services = document(platform, "services", "--tenant", "acme")
    absent = absent_model(platform)
    states = {name: "absent" if name == absent else "ready" for name in ("a", "b", "c")}
    assert {row["name"]: row["state"] for row in services} == states
    assert all(set(SERVICE.split()) <= set(row) for row in services)
    events = document(platform, "events")
    assert all(set(EVENT.split()) <= set(row) for row in events)
    assert [row["seq"] for row in events] == sorted(row["seq"] for row in events)
    assert {"deploy", "create", "load", "ready", "evict", "gone"} <= {row["kind"] for row in events}
    (usage,) = document(platform, "usage")
    assert (usage["tenant"], usage["services"], usage["calls"], usage["faults"]) == ("acme", 3, 3, 3)
    eventually(lambda: document(platform, "usage")[0]["host_byte_s"], within_s=30.0)  # it is charged now and then


def test_tables_for_people_say_the_same(platform: Platform) -> None:
    assert "FORK" in said(platform, "ps", "-o", "wide")
    assert "owner=ops" in said(platform, "services", "-o", "wide")
    evicted = said(platform, "events", "--subject", f"{absent_model(platform)} ")
    assert "room for c" in evicted
    assert "to load it again" in evicted
    assert "2 of 2" in said(platform, "nodes")
    assert "acme" in said(platform, "usage", "--by", "service")
    assert "2 containers" in said(platform, "top", "--once")


def test_top_shows_frame_after_frame_where_there_is_no_terminal_and_ends_with_its_reader(platform: Platform) -> None:
    command = platform.run("top", "--endpoint", platform.endpoint, "--interval", "0.1")
    assert command.stdout is not None
    with command.stdout:
        frames = 0
        for line in command.stdout:
            frames += "2 containers" in line
            if frames == 3:
                break
    assert command.wait(timeout=20) == 141


def test_what_is_pinned_stays_and_a_drained_node_is_empty_until_it_is_resumed(platform: Platform) -> None:
    with platform.client(tenant="acme", timeout=30.0, lanes=False) as client:
        resident = sorted(row["model"] for row in client.containers())
        (absent,) = {"a", "b", "c"} - set(resident)
        service = client.service(absent)
        for name in resident:
            assert said(platform, "pin", name, "--tenant", "acme").startswith(f"pinned {name}")
        with pytest.raises(huterox.ResourceInterrupt) as caught:
            service(x=INPUT)
        assert f"unpinning {', '.join(resident)}" in caught.value.details["would_help"]
        said(platform, "unpin", resident[0], "--tenant", "acme")
        service(x=INPUT)
        assert {row["model"] for row in client.containers()} == {absent, resident[1]}

        (node,) = [row["node"] for row in client.nodes()]
        said(platform, "drain", node)
        eventually(lambda: not client.containers())
        assert client.nodes()[0]["state"] == "drained"
        with pytest.raises(huterox.ResourceInterrupt) as caught:  # until then it might have been resumed
            service.call("predict", timeout=1.0, x=INPUT)
        assert caught.value.details["nodes"][0]["closed_because"] == "drained by an operator"
        assert client.containers() == []
        said(platform, "resume", node)
        service(x=INPUT)


def test_a_service_with_a_quota_has_no_lanes_and_is_busy_beyond_it(platform: Platform, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with platform.client(tenant="acme", timeout=30.0) as client:
        model = client.containers()[0]["model"]
        client.create("trial", model=model, in_flight_max=2)
        trial, free = client.service("trial"), client.service(model)
        trial(x=INPUT)
        assert trial.path == "routed"
        holding = [trial.submit("held", go=str(go)) for _ in range(2)]
        with pytest.raises(huterox.Busy, match="quota"):
            trial(x=INPUT)
        other = free.submit(x=INPUT)  # the same container, for a service without one
        go.touch()
        assert other.result(timeout=20)
        assert [future.result(timeout=20) for future in holding] == [{"result": None}] * 2
        trial(x=INPUT)
        assert client.delete("trial")["name"] == "trial"
