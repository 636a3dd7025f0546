"""The records as the operator sees them: what `ps`, `services`, `models`, `nodes` and `usage` answer. Plain values."""

from itertools import islice
from typing import Any, Final

from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Model, Node, Service, Usage
from huterox_connector.core.registry import bits
from huterox_connector.core.vectors import MIB
from huterox_wire.ids import text_of

SERVICES_SHOWN_MAX: Final = 32
_SHOWN_STATE = {State.PLANNED: "creating", State.CLOSING: "draining"}


def container_row(container: Container, journal: Journal, now_s: float) -> dict[str, Any]:
    spec, reserved, node = container.spec, container.reserved, container.node
    services = container.group.services
    return {
        "id": container.title,
        "model": spec.name,
        "version": spec.version,
        "algorithm": spec.algorithm,
        "node": node.name,
        "device": container.charge.device or "cpu",
        "state": _SHOWN_STATE.get(container.state, str(container.state)),
        "created_at": container.created_at,
        "run_time_s": round(now_s - container.created_s, 3),
        "hits": container.hits,
        "last_hit_at": journal.at(container.last_hit_s) if container.last_hit_s else None,
        "in_flight": container.calls_now,
        "lanes": container.lanes,
        "footprint_declared_mb": spec.resources.host_mb,
        "footprint_reserved_mb": reserved.host_bytes // MIB,
        "footprint_measured_mb": round(container.measured_host_bytes / MIB, 1),
        "device_reserved_mb": reserved.device_bytes // MIB,
        "device_measured_mb": round(container.measured_device_bytes / MIB, 1),
        "load_s": round(container.load_s, 3),
        "timings_s": {stage: round(took_s, 4) for stage, took_s in container.timings_s.items()},
        "pid": container.pid,
        "pid_identity": f"{node.host_id}:{container.pid}:{container.pid_started}" if container.pid else None,
        "services": sorted(service.title for service in islice(services.values(), SERVICES_SHOWN_MAX)),
        "services_count": len(services),
        "reason": container.reason,
    }


def service_row(service: Service, journal: Journal, now_s: float) -> dict[str, Any]:
    group = service.group
    containers = [container.title for container in (*group.ready, *group.coming.values())]
    return {
        "id": text_of("s", service.id),
        "name": service.name,
        "tenant": service.tenant,
        "model": service.model.name,
        "algorithm": service.model.spec.algorithm,
        "tier": service.tier,
        "lend": service.lend,
        "quota": {"in_flight_max": service.in_flight_max or None},
        "state": _service_state(service),
        "bits": bits(service),
        "container": containers[0] if containers else None,
        "containers": containers,
        "created_at": service.created_at,
        "run_time_s": round(journal.at(now_s) - service.created_at, 3),
        "hits": service.hits,
        "last_hit_at": journal.at(service.last_hit_s) if service.last_hit_s else None,
        "info": service.info,
        "usage": _amounts(service.usage()),
    }


def _service_state(service: Service) -> str:
    if service.group.ready:
        return "ready"
    return "loading" if service.group.coming else "absent"


def model_row(model: Model) -> dict[str, Any]:
    spec = model.spec
    measured = model.footprints.anywhere(False) or model.footprints.anywhere(True)
    return {
        "name": spec.name,
        "version": spec.version,
        "algorithm": spec.algorithm,
        "runtime": spec.runtime,
        "entry": spec.entry,
        "device": spec.device,
        "host_mb": spec.resources.host_mb,
        "gpu_mb": spec.resources.gpu_mb,
        "measured_host_mb": round(measured.host_bytes / MIB, 1) if measured else None,
        "measured_gpu_mb": round(measured.device_bytes / MIB, 1) if measured else None,
        "measured_load_s": round(measured.load_s, 3) if measured else None,
        "services": len(model.services),
        "containers": len(model.containers),
        "deployed_at": model.deployed_at,
    }


def node_row(node: Node, journal: Journal, now_s: float) -> dict[str, Any]:
    present = node.present
    return {
        "node": node.name,
        "host": node.host,
        "state": _node_state(node, now_s),
        "policy": node.policy,
        "pid": node.pid,
        "slots": node.capacity.slots,
        "slots_used": present.slots,
        "host_mb": node.offered.host_bytes // MIB,
        "host_mb_limit": (node.limit.host_bytes + node.base_bytes) // MIB,
        "host_mb_used": (present.host_bytes + node.base_bytes) // MIB,
        "host_mb_base": node.base_bytes // MIB,
        "host_mb_available": node.host_bytes_free // MIB,
        "devices": [_device_row(node, device) for device in node.capacity.devices],
        "containers": len(node.containers),
        "claimed_for": node.claim.model.name if node.claim is not None else None,
        "memory": node.ghosts.summary(),
        "registered_at": node.registered_at,
        "last_heartbeat_at": journal.at(node.last_heartbeat_s),
        "kernel_version": node.version,
        "note": node.note or None,
    }


def _node_state(node: Node, now_s: float) -> str:
    if node.drained:
        return "drained"
    return "unhealthy" if now_s < node.sick_until_s else "ready"


def _device_row(node: Node, device: str) -> dict[str, Any]:
    free = node.device_bytes_free.get(device)
    return {
        "id": device,
        "name": node.devices.get(device, ""),
        "mb": node.capacity.devices[device] // MIB,
        "mb_limit": node.limit.devices.get(device, 0) // MIB,
        "mb_used": node.present.devices.get(device, 0) // MIB,
        "mb_available": free // MIB if free is not None else None,
    }


def usage_row(tenant: str, services: int, usage: Usage) -> dict[str, Any]:
    return {"tenant": tenant, "services": services, **_amounts(usage)}


def _amounts(usage: Usage) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "errors": usage.errors,
        "busy_s": round(usage.busy_s, 6),
        "host_byte_s": round(usage.host_byte_s),
        "device_byte_s": round(usage.device_byte_s),
        "faults": usage.faults,
        "refused": usage.refused,
    }
