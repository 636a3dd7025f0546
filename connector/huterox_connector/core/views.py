"""The records as the operator sees them: what `ps`, `services`, `models` and `nodes` answer. Plain values."""

from typing import Any

from huterox_connector.core.ids import text_of
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State
from huterox_connector.core.placement import present
from huterox_connector.core.records import MIB, Container, Model, Node, Service

_SHOWN_STATE = {State.PLANNED: "creating", State.CLOSING: "draining"}


def container_row(container: Container, journal: Journal, now_s: float) -> dict[str, Any]:
    spec = container.spec
    return {
        "id": container.title,
        "model": spec.name,
        "version": spec.version,
        "algorithm": spec.algorithm,
        "node": container.node.name,
        "device": "cpu" if spec.device == "any" else spec.device,
        "state": _SHOWN_STATE.get(container.state, str(container.state)),
        "created_at": container.created_at,
        "run_time_s": round(now_s - container.created_s, 3),
        "hits": container.hits,
        "last_hit_at": journal.at(container.last_hit_s) if container.last_hit_s else None,
        "in_flight": container.calls_now,
        "lanes": container.lanes,
        "footprint_declared_mb": container.demand.host_bytes // MIB,
        "footprint_measured_mb": round(container.measured_host_bytes / MIB, 1),
        "pid": container.pid,
        "services": sorted(service.title for service in container.group.services.values()),
        "reason": container.reason,
    }


def service_row(service: Service, journal: Journal) -> dict[str, Any]:
    container = service.group.container
    return {
        "id": text_of("s", service.id),
        "name": service.name,
        "tenant": service.tenant,
        "model": service.model.name,
        "tier": service.tier,
        "state": _service_state(service),
        "container": container.title if container is not None else None,
        "created_at": service.created_at,
        "hits": service.hits,
        "last_hit_at": journal.at(service.last_hit_s) if service.last_hit_s else None,
        "usage": {"calls": service.hits, "errors": service.errors, "busy_s": round(service.busy_s, 6)},
    }


def _service_state(service: Service) -> str:
    if service.container is not None:
        return "ready"
    return "loading" if service.group.container is not None else "absent"


def model_row(model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": spec.name,
        "version": spec.version,
        "algorithm": spec.algorithm,
        "runtime": spec.runtime,
        "entry": spec.entry,
        "device": spec.device,
        "host_mb": spec.resources.host_mb,
        "gpu_mb": spec.resources.gpu_mb,
        "services": len(model.services),
        "containers": len(model.containers),
        "deployed_at": model.deployed_at,
    }


def node_row(node: Node, journal: Journal) -> dict[str, Any]:
    used = present(node)
    return {
        "node": node.name,
        "host": node.host,
        "state": "ready",
        "pid": node.pid,
        "slots": node.capacity.slots,
        "slots_used": used.slots,
        "host_mb": node.capacity.host_bytes // MIB,
        "host_mb_used": used.host_bytes // MIB,
        "host_mb_available": node.host_bytes_free // MIB,
        "containers": len(node.containers),
        "registered_at": node.registered_at,
        "last_heartbeat_at": journal.at(node.last_heartbeat_s),
        "kernel_version": node.version,
    }
