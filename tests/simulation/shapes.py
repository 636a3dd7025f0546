"""What platforms look like: drawn at random, small enough that everything in them meets everything else soon."""

from random import Random
from typing import Any

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.replacer import POLICIES

TENANTS = ("default", "north", "south")


def draw_config(random: Random) -> CoreConfig:
    """Limits that are reached, and times that pass within seconds."""
    return CoreConfig(
        policy=random.choice(sorted(POLICIES)),
        placement=random.choice(["spread", "pack"]),
        call_timeout_s=2.5,
        calls_max=200,
        calls_per_caller_max=60,
        calls_per_container_max=random.choice([4, 20]),
        turn_calls_max=random.choice([2, 4, 30]),
        calls_nbytes_max=2_000_000,
        waiting_per_group_max=random.choice([4, 15]),
        waiting_nbytes_max=2_000_000,
        room_patience_s=random.choice([1.5, 4.0]),
        no_node_patience_s=1.5,
        node_timeout_s=1.5,
        node_suspect_s=1.2,
        residency_min_s=random.choice([0.0, 0.2]),
        residency_load_factor=random.choice([0.0, 1.0, 2.0]),
        residency_max_s=1.5,
        hot_half_life_s=5.0,
        hotter_factor=random.choice([0.0, 3.0, 20.0]),
        turn_after_s=random.choice([0.2, 1.0]),
        claim_after_s=random.choice([0.5, 1.5]),
        big_load_mb=random.choice([300, 1024]),
        backoff_first_s=0.2,
        backoff_max_s=1.0,
        replica_queue=2,
        replica_after_s=0.3,
        replica_idle_s=1.0,
        accessed_window_s=random.choice([0.2, 0.6]),
        lend_idle_s=0.3,
        sick_after=2,
        sick_s=1.0,
        ask_timeout_s=1.0,
        order_again_s=1.0,
        journal_max=500,
    )


def draw_node(random: Random) -> dict[str, Any]:
    """What a kernel offers: slots, host memory, up to two devices; and what its machine has beside."""
    devices = {f"gpu{number}": random.choice([600, 1200]) for number in range(random.choice([0, 0, 1, 2]))}
    return {
        "slots": random.randint(1, 5),
        "host_mb": random.choice([512, 1024, 2048]),
        "devices": devices,
        "spare_mb": random.choice([0, 300]),
        "base_mb": random.choice([0, 40, 120]),
    }


def draw_model(random: Random, name: str, version: int) -> dict[str, Any]:
    """A model's file."""
    device = random.choice(["cpu", "cpu", "cpu", "cuda", "any"])
    resources = {"host_mb": random.choice([64, 200, 350, 700])}
    if device != "cpu":
        resources["gpu_mb"] = random.choice([150, 400, 900])
    return {
        "name": name,
        "version": str(version),
        "entry": "m.py:M",
        "device": device,
        "resources": resources,
        "idle_timeout_s": random.choice([0.0, 1.0, 600.0, 600.0]),
        "services_per_container": random.choice([1, 2, 10]),
        "replicas_max": random.choice([1, 2, 4]),
        "load_timeout_s": 20.0,
    }


def draw_service(random: Random) -> dict[str, Any]:
    """A service's tier, owner and quota."""
    tier = random.choice(["shared"] * 5 + ["pinned", "dedicated"])
    drawn: dict[str, Any] = {"tier": tier, "tenant": random.choice(TENANTS)}
    if tier == "dedicated":
        drawn["lend"] = random.random() < 0.6
    if random.random() < 0.2:
        drawn["in_flight_max"] = random.randint(1, 3)
    return drawn
