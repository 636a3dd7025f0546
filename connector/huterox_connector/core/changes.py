"""Changes of desired state: checked, then written, then applied.

Each verb here checks what is asked and says what to write and how to apply it. `Admin` sees to it that they come one
after another, and that nothing is applied before it is on disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from msgspec import msgpack

from huterox_connector.core import desired, measured, views
from huterox_connector.core.adminargs import CreateArgs, DeployArgs, NodeArgs, ServiceArgs, UndeployArgs
from huterox_connector.core.effects import Effect, Keep, Write
from huterox_connector.core.faults import Faults
from huterox_connector.core.ids import IdSource
from huterox_connector.core.journal import Journal
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.nodes import Nodes
from huterox_connector.core.reclaim import Reclaim
from huterox_connector.core.records import Model, Service
from huterox_connector.core.registry import Registry
from huterox_connector.core.residency import Residency
from huterox_wire.errors import Conflict, InvalidInput, NotFound, TooLarge
from huterox_wire.nodes import SPEC_NBYTES_MAX

TENANT_DEFAULT: Final = "default"

Apply = Callable[[float], tuple[Any, list[Effect]]]


@dataclass(slots=True)
class Change:
    """A checked change: what to write, and what to do once it is written."""

    writes: tuple[Write, ...]
    apply: Apply


class Changes:
    """The verbs that change what is desired."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        leaving: Leaving,
        reclaim: Reclaim,
        nodes: Nodes,
        faults: Faults,
        journal: Journal,
        ids: IdSource,
    ) -> None:
        self._registry = registry
        self._residency = residency
        self._leaving = leaving
        self._reclaim = reclaim
        self._nodes = nodes
        self._faults = faults
        self._journal = journal
        self._ids = ids

    # Models.

    def deploy(self, args: DeployArgs, now_s: float) -> Change:
        spec = args.model
        if (nbytes := len(msgpack.encode(spec))) > SPEC_NBYTES_MAX:
            raise TooLarge(
                f"the specification has {nbytes} bytes; at most {SPEC_NBYTES_MAX} are kept (put long data into a file)",
                need=nbytes,
                limit=SPEC_NBYTES_MAX,
            )
        at = self._journal.at(now_s)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            known = self._registry.models.get(spec.name)
            changed = known is not None and known.spec != spec
            model = self._registry.put_model(spec, at)
            reason = f"version {spec.version}" + (" replaces what was deployed" if changed else "")
            effects: list[Effect] = [self._journal.record("deploy", spec.name, reason, now_s, entry=spec.entry)]
            if changed:
                effects += self._replace_containers(model, now_s)
            return {"name": spec.name, "version": spec.version, "replaced": known is not None}, effects

        return Change((desired.put(desired.model_key(spec.name), desired.StoredModel(spec, at)),), apply)

    def _replace_containers(self, model: Model, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for group in self._registry.groups.values():
            if group.model is model:
                group.failures, group.last_error = 0, None
                group.failed_on.clear()
        for container in list(model.containers.values()):
            effects += self._leaving.evict(container, "its model was deployed anew", now_s, kind="reclaim")
        return effects + self._residency.retry_anew(now_s)

    def undeploy(self, args: UndeployArgs, now_s: float) -> Change:
        model = self._registry.model(args.name)
        services = list(model.services.values())
        if services and not args.force:
            titles = sorted(service.title for service in services)
            raise Conflict(
                f"model {model.name!r} still serves {', '.join(titles[:8])}"
                f"{f' and {len(titles) - 8} others' if len(titles) > 8 else ''}; delete them first, or force",
                services=titles[:64],
            )

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            effects: list[Effect] = [self._journal.record("undeploy", model.name, "asked for", now_s)]
            forgotten = [measured.forget_footprint(model, node) for node in model.footprints.nodes()]
            effects += [Keep(tuple(forgotten))] if forgotten else []
            for service in services:
                effects += self._remove_service(service, now_s)
            for container in list(model.containers.values()):
                effects += self._leaving.evict(container, "its model was undeployed", now_s, kind="reclaim")
            self._registry.remove_model(model)
            return {"name": model.name}, effects

        removals = [desired.remove(desired.service_key(service.id)) for service in services]
        return Change((desired.remove(desired.model_key(model.name)), *removals), apply)

    # Services.

    def create(self, args: CreateArgs, now_s: float) -> Change:
        model = self._registry.model(args.model)
        tenant = args.tenant or TENANT_DEFAULT
        if (taken := self._registry.find_service(tenant, args.name)) is not None:
            raise Conflict(f"tenant {tenant!r} already has a service {args.name!r}, of model {taken.model.name!r}")
        if args.lend and args.tier != "dedicated":
            raise InvalidInput(
                f"only a dedicated service has containers to lend, not a {args.tier} one", tier=args.tier
            )
        record = desired.StoredService(
            self._ids.next(),
            args.name,
            tenant,
            args.tier,
            model.name,
            self._journal.at(now_s),
            args.in_flight_max,
            args.lend,
            args.info,
        )

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            group = self._registry.group_of(model, record.id if record.tier == "dedicated" else 0, now_s)
            service = desired.service_from(record, model, group, now_s)
            self._registry.add_service(service)
            created = self._journal.record("create", service.title, f"{args.tier} service of {model.name}", now_s)
            return views.service_row(service, self._journal, now_s), [created]

        return Change((desired.put(desired.service_key(record.id), record),), apply)

    def delete(self, args: ServiceArgs, now_s: float) -> Change:
        service = self._registry.service(args.tenant or TENANT_DEFAULT, args.name)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            return {"name": service.name, "tenant": service.tenant}, self._remove_service(service, now_s)

        return Change((desired.remove(desired.service_key(service.id)),), apply)

    def _remove_service(self, service: Service, now_s: float) -> list[Effect]:
        gone = NotFound(f"service {service.title} was deleted", service=service.name)
        effects: list[Effect] = [self._journal.record("delete", service.title, "asked for", now_s)]
        effects += self._faults.fail(service.group, gone, lambda waiting: waiting.service is service)
        effects += self._leaving.end_lanes_of(service.id, service.group.ready, f"service {service.title} was deleted")
        self._registry.remove_service(service)
        past = self._registry.past_usage[service.tenant]
        usage = Write(measured.usage_key(service.id), None)
        effects.append(Keep((usage, measured.put_past(service.tenant, past))))
        return effects + self._reclaim.unused(service.group, now_s)

    def pin(self, args: ServiceArgs, now_s: float) -> Change:
        return self._change_tier(args, "pinned", "shared", now_s)

    def unpin(self, args: ServiceArgs, now_s: float) -> Change:
        return self._change_tier(args, "shared", "pinned", now_s)

    def _change_tier(self, args: ServiceArgs, tier: str, other: str, now_s: float) -> Change:
        service = self._registry.service(args.tenant or TENANT_DEFAULT, args.name)
        if service.tier not in (tier, other):
            raise Conflict(
                f"service {service.title} is {service.tier}: its containers never leave for others anyway",
                tier=service.tier,
            )
        record = desired.stored(service)
        record.tier = tier

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            effects: list[Effect] = []
            if service.tier != tier:
                service.tier = tier
                service.group.pins += 1 if tier == "pinned" else -1
                effects.append(self._journal.record("tier", service.title, f"{tier} from now on", now_s, was=other))
                effects += self._residency.retry_anew(now_s)
            return views.service_row(service, self._journal, now_s), effects

        return Change((desired.put(desired.service_key(service.id), record),), apply)

    # Nodes.

    def drain(self, args: NodeArgs, now_s: float) -> Change:
        node = self._registry.node(args.name)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            return {"node": args.name, "drained": True}, self._nodes.drain(node, now_s)

        record = desired.StoredNode(args.name, drained=True)
        return Change((desired.put(desired.node_key(args.name), record),), apply)

    def resume(self, args: NodeArgs, now_s: float) -> Change:
        if args.name not in self._nodes.drained_names:
            self._registry.node(args.name)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            return {"node": args.name, "drained": False}, self._nodes.resume(args.name, now_s)

        return Change((desired.remove(desired.node_key(args.name)),), apply)
