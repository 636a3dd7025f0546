"""Five yolos run and a 6B model arrives: what its caller is told, and what helps. Real processes, real memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.system.platform import Platform, eventually, running
from tests.system.traffic import INPUT, matrix

import huterox

pytestmark = pytest.mark.system

HOST_MB = 600
YOLO_MB = 80
"""With what a process takes beside its weights a container has about 90 MB, and all of them share 30 to 60 MB: five
leave about 100 MB free, three 280, and two 370.
"""
BIG_MB = 325
"""What `big` declares. It fits the node, beside two yolos at most."""


@pytest.fixture
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("up") / "d"
    with running(folder, "--slots", "8", "--host-mb", str(HOST_MB)) as platform:
        yield platform


@pytest.fixture
def client(platform: Platform) -> Iterator[huterox.Client]:
    with platform.client(timeout=30.0, lanes=False) as client:
        client.deploy(matrix("yolo", YOLO_MB, services_per_container=1))
        client.deploy({**matrix("big", 200), "resources": {"host_mb": BIG_MB}})
        client.create("writer", model="big", tenant="library")
        yield client


def five_yolos(client: huterox.Client, tiers: list[str]) -> list[huterox.Service]:
    """One service for each tier, and so many containers of one model."""
    cameras = []
    for number, tier in enumerate(tiers):
        client.create(f"cam{number}", model="yolo", tier=tier)
        cameras.append(client.service(f"cam{number}"))

    def all_resident() -> bool:
        for camera in cameras:  # each that is used has a container to itself, where it fits
            camera(x=INPUT)
        return [row["state"] for row in client.containers()] == ["ready"] * len(tiers)

    eventually(all_resident, within_s=30.0)
    return cameras


def interrupted(service: huterox.Service, **call: float) -> huterox.ResourceInterrupt:
    with pytest.raises(huterox.ResourceInterrupt) as caught:
        service.call("predict", x=INPUT, **call)
    return caught.value


def test_five_yolos_run_and_a_6b_model_arrives(platform: Platform, client: huterox.Client) -> None:
    cameras = five_yolos(client, ["dedicated", "dedicated", "dedicated", "pinned", "pinned"])
    writer = client.service("writer", tenant="library")

    error = interrupted(writer)
    assert (error.code, error.retryable) == ("ResourceInterrupt", True)
    assert "no room for model 'big': it needs 1 slot and 325 MiB; what is resident may not leave" in str(error)
    facts = error.details
    assert facts["model"] == "big"
    assert facts["needed"] == {"slots": 1, "host_mb": BIG_MB}
    assert facts["waited_s"] < 5.0  # at once: nobody will leave, however long it waits
    assert facts["retry_after_s"] is None
    (node,) = facts["nodes"]
    assert node["capacity"] == {"slots": 8, "host_mb": HOST_MB}
    assert node["free"]["slots"] == 3
    assert node["free"]["host_mb"] < BIG_MB
    assert {held["container"] for held in node["held_by"]} == {row["id"] for row in client.containers()}
    assert sorted(held["stays_because"] for held in node["held_by"]) == ["dedicated"] * 3 + ["pinned"] * 2
    assert all(held["model"] == "yolo" and held["host_mb"] >= YOLO_MB for held in node["held_by"])
    assert "unpinning yolo" in facts["would_help"]
    assert "giving up the containers of their own of yolo" in facts["would_help"]

    told = platform.command("call", "writer", "--tenant", "library", "-i", "x=[1]")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("huterox: ResourceInterrupt: no room for model 'big'")
    (usage,) = client.usage(tenant="library")
    assert (usage["refused"], usage["calls"]) == (2, 0)
    refusal = next(event for event in client.events() if event["kind"] == "refused")
    assert refusal["details"]["needed"] == facts["needed"]

    # What would help, helps: half of it is not enough, and the rest names only what is still in the way.
    for camera in ("cam3", "cam4"):
        client.unpin(camera)
    still = interrupted(writer)
    stays = [held["stays_because"] for held in still.details["nodes"][0]["held_by"]]
    assert stays.count("dedicated") == 3
    assert "pinned" not in stays
    assert "unpinning yolo" not in still.details["would_help"]
    client.delete("cam0")
    eventually(lambda: len(client.containers()) == 4)
    assert np.isfinite(writer(x=INPUT)["sum"])
    assert {row["model"] for row in client.containers()} == {"yolo", "big"}
    cameras[1](x=INPUT)


def test_five_busy_yolos_are_waited_for_and_asked_to_leave_when_the_callers_patience_allows(
    client: huterox.Client, tmp_path: Path
) -> None:
    cameras = five_yolos(client, ["shared"] * 5)
    writer = client.service("writer", tenant="library")
    go = tmp_path / "go"
    holding = [camera.submit("held", go=str(go)) for camera in cameras]
    eventually(lambda: [row["in_flight"] for row in client.containers()] == [1] * 5)

    error = interrupted(writer, timeout=0.4)  # less than it takes until busy ones are asked to leave
    (node,) = error.details["nodes"]
    reasons = [held["stays_because"] for held in node["held_by"]]
    assert len(reasons) == 5
    assert all("in flight" in why or "protected" in why or "hotter" in why for why in reasons), reasons
    assert error.details["retry_after_s"] > 0
    assert "coming back later" in error.details["would_help"]

    waiting = writer.submit("predict", timeout=30.0, x=INPUT)
    eventually(lambda: any(row["state"] == "draining" for row in client.containers()), 20.0)
    go.touch()
    assert np.isfinite(waiting.result(timeout=30)["sum"])
    assert [future.result(timeout=20) for future in holding] == [{"result": None}] * 5  # none was cut short
    evicted = [event for event in client.events() if event["kind"] == "evict"]
    assert 1 <= len(evicted) <= 4  # no more than it takes
    assert all("room for big" in event["reason"] for event in evicted)
