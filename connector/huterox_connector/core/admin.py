"""The operator's verbs. Questions are answered at once; changes are on disk before they are acknowledged.

Changes go one after another: the first in line is checked, written (`Commit`), and only when it is on disk applied and
answered; then the next is checked. So a check always sees everything that was acknowledged before it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Struct

from huterox_connector.core import desired, views
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Answer, AskKernel, Commit, Effect, Journalled, Refuse, Write
from huterox_connector.core.events import AdminRequested
from huterox_connector.core.faults import Faults
from huterox_connector.core.ids import IdSource, id_of
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State
from huterox_connector.core.questions import Question, Questions
from huterox_connector.core.records import ROUTE_PREFIX, Container, Model, Service
from huterox_connector.core.registry import Registry
from huterox_connector.core.residency import Residency
from huterox_wire.errors import Busy, Conflict, HuteroxError, InvalidInput, NotFound, Unavailable
from huterox_wire.kinds import Kind
from huterox_wire.limits import META_NBYTES_MAX
from huterox_wire.meta import AdminMeta, AdminReplyMeta, Name
from huterox_wire.nodes import LogArgs, ModelSpec

TENANT_DEFAULT: Final = "default"
EVENTS_NBYTES_MAX: Final = META_NBYTES_MAX // 2


class _Args(Struct, forbid_unknown_fields=True):
    pass


class NoArgs(_Args):
    pass


class DeployArgs(_Args):
    model: ModelSpec


class UndeployArgs(_Args):
    name: str
    force: bool = False


class CreateArgs(_Args):
    name: Name
    model: Name
    tenant: str = ""
    tier: Literal["shared", "dedicated", "pinned"] = "shared"


class DeleteArgs(_Args):
    name: str
    tenant: str = ""


class ServicesArgs(_Args):
    tenant: str = ""


class EventsArgs(_Args):
    after: int = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000
    subject: str = ""


class EvictArgs(_Args):
    container: str


class LogsArgs(_Args):
    name: str
    tenant: str = ""
    offset: int = -65536
    limit: Annotated[int, msgspec.Meta(ge=1, le=262144)] = 65536


@dataclass(slots=True)
class Change:
    """A checked change: what to write, and what to do once it is written."""

    writes: tuple[Write, ...]
    apply: Callable[[float], tuple[Any, list[Effect]]]


@dataclass(slots=True)
class Pending:
    request: AdminRequested
    apply: Callable[[float], tuple[Any, list[Effect]]]


class Admin:
    """Every verb, its arguments, and who may run beside whom."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        faults: Faults,
        questions: Questions,
        journal: Journal,
        ids: IdSource,
        config: CoreConfig,
        status: Callable[[float], dict[str, Any]],
    ) -> None:
        self._registry = registry
        self._residency = residency
        self._faults = faults
        self._asked = questions
        self._journal = journal
        self._ids = ids
        self._config = config
        self._queue: deque[AdminRequested] = deque()
        self._pending: Pending | None = None
        self._ticket = 0
        self._questions: dict[str, tuple[type[_Args], Callable[[Any, float], Any]]] = {
            "status": (NoArgs, lambda _, now_s: status(now_s)),
            "models": (NoArgs, self._models),
            "services": (ServicesArgs, self._services),
            "ps": (NoArgs, self._ps),
            "nodes": (NoArgs, self._nodes),
            "events": (EventsArgs, self._events),
        }
        self._orders: dict[str, tuple[type[_Args], Callable[[AdminRequested, Any, float], list[Effect]]]] = {
            "evict": (EvictArgs, self._evict),
            "logs": (LogsArgs, self._logs),
        }
        self._changes: dict[str, tuple[type[_Args], Callable[[Any, float], Change]]] = {
            "deploy": (DeployArgs, self._deploy),
            "undeploy": (UndeployArgs, self._undeploy),
            "create": (CreateArgs, self._create),
            "delete": (DeleteArgs, self._delete),
        }

    def on_request(self, request: AdminRequested, now_s: float) -> list[Effect]:
        """Answer a question, carry out an order, or queue a change."""
        verb = request.meta.verb
        try:
            if verb in self._questions:
                args_type, question = self._questions[verb]
                return [self._answer(request, question(self._args(request, args_type), now_s))]
            if verb in self._orders:
                args_type, order = self._orders[verb]
                return order(request, self._args(request, args_type), now_s)
            if verb not in self._changes:
                known = sorted({**self._questions, **self._orders, **self._changes})
                raise InvalidInput(f"unknown verb {verb!r}; known are {', '.join(known)}", known=known)
            if len(self._queue) >= self._config.mutations_max:
                raise Busy("too many changes wait for the disk", retry_after_s=self._config.busy_retry_after_s)
        except HuteroxError as error:
            return [Refuse(request.caller, request.request_id, error)]
        self._queue.append(request)
        return self._next_change(now_s)

    def _args(self, request: AdminRequested, args_type: type[_Args]) -> Any:
        try:
            return msgspec.convert(request.meta.args, args_type)
        except (msgspec.ValidationError, RecursionError) as exc:
            fields = [field.name for field in msgspec.structs.fields(args_type)]
            raise InvalidInput(f"verb {request.meta.verb!r}: {exc} (arguments: {', '.join(fields) or 'none'})") from exc

    def _answer(self, request: AdminRequested, result: Any) -> Answer:
        return Answer(request.caller, request.request_id, AdminReplyMeta(result))

    # Changes, one at a time.

    def _next_change(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._queue and self._pending is None:
            request = self._queue.popleft()
            args_type, check = self._changes[request.meta.verb]
            try:
                change = check(self._args(request, args_type), now_s)
            except HuteroxError as error:
                effects.append(Refuse(request.caller, request.request_id, error))
                continue
            self._ticket += 1
            self._pending = Pending(request, change.apply)
            effects.append(Commit(self._ticket, change.writes))
        return effects

    def on_committed(self, ticket: int, now_s: float) -> list[Effect]:
        """The change is on disk: apply it, acknowledge it, go on with the next."""
        pending = self._pending
        if pending is None or ticket != self._ticket:
            return []
        self._pending = None
        result, effects = pending.apply(now_s)
        return [self._answer(pending.request, result), *effects, *self._next_change(now_s)]

    def on_commit_failed(self, ticket: int, reason: str, now_s: float) -> list[Effect]:
        pending = self._pending
        if pending is None or ticket != self._ticket:
            return []
        self._pending = None
        error = Unavailable(f"the change could not be written: {reason}; nothing was changed")
        return [Refuse(pending.request.caller, pending.request.request_id, error), *self._next_change(now_s)]

    def _deploy(self, args: DeployArgs, now_s: float) -> Change:
        spec = args.model
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
        for container in list(model.containers.values()):
            effects += self._residency.evict(container, "its model was deployed anew", now_s)
        return effects + self._residency.retry(now_s)

    def _undeploy(self, args: UndeployArgs, now_s: float) -> Change:
        model = self._registry.model(args.name)
        services = list(model.services.values())
        if services and not args.force:
            titles = sorted(service.title for service in services)
            raise Conflict(
                f"model {model.name!r} still serves {', '.join(titles)}; delete them first, or force", services=titles
            )

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            effects: list[Effect] = [self._journal.record("undeploy", model.name, "asked for", now_s)]
            for service in services:
                effects += self._remove_service(service, now_s)
            for container in list(model.containers.values()):
                effects += self._residency.evict(container, "its model was undeployed", now_s)
            self._registry.remove_model(model)
            return {"name": model.name}, effects

        removals = [desired.remove(desired.service_key(service.id)) for service in services]
        return Change((desired.remove(desired.model_key(model.name)), *removals), apply)

    def _create(self, args: CreateArgs, now_s: float) -> Change:
        model = self._registry.model(args.model)
        tenant = args.tenant or TENANT_DEFAULT
        if (taken := self._registry.find_service(tenant, args.name)) is not None:
            raise Conflict(f"tenant {tenant!r} already has a service {args.name!r}, of model {taken.model.name!r}")
        service_id, at = self._ids.next(), self._journal.at(now_s)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            service = self._registry.add_service(service_id, args.name, tenant, args.tier, model, at)
            created = self._journal.record("create", service.title, f"{args.tier} service of {model.name}", now_s)
            return views.service_row(service, self._journal), [created]

        record = desired.StoredService(service_id, args.name, tenant, args.tier, model.name, at)
        return Change((desired.put(desired.service_key(service_id), record),), apply)

    def _delete(self, args: DeleteArgs, now_s: float) -> Change:
        service = self._registry.service(args.tenant or TENANT_DEFAULT, args.name)

        def apply(now_s: float) -> tuple[Any, list[Effect]]:
            return {"name": service.name, "tenant": service.tenant}, self._remove_service(service, now_s)

        return Change((desired.remove(desired.service_key(service.id)),), apply)

    def _remove_service(self, service: Service, now_s: float) -> list[Effect]:
        gone = NotFound(f"service {service.title} was deleted", service=service.name)
        effects: list[Effect] = [self._journal.record("delete", service.title, "asked for", now_s)]
        effects += self._faults.fail(service.group, gone, lambda waiting: waiting.service is service)
        effects += self._residency.end_lanes_of(service)
        self._registry.remove_service(service)
        return effects

    # Orders.

    def _evict(self, request: AdminRequested, args: EvictArgs, now_s: float) -> list[Effect]:
        container = self._registry.containers.get(id_of("c", args.container))
        if container is None:
            raise NotFound(f"no container {args.container!r}", container=args.container)
        answer = self._answer(request, {"container": container.title})
        return [answer, *self._residency.evict(container, "an operator asked for it", now_s)]

    def _logs(self, request: AdminRequested, args: LogsArgs, now_s: float) -> list[Effect]:
        container = self._newest_container(args.name, args.tenant or TENANT_DEFAULT)
        log_args = msgspec.to_builtins(LogArgs(container.id, args.offset, args.limit))
        route = ROUTE_PREFIX.pack(0) + request.caller
        node = container.node
        late = Unavailable("the container's node did not answer in time")
        question = Question(node.identity, now_s + self._config.ask_timeout_s, late)
        self._asked.put(request.caller, request.request_id, question)
        return [AskKernel(node.identity, route, request.request_id, Kind.ADMIN, AdminMeta("logs", log_args))]

    def _newest_container(self, name: str, tenant: str) -> Container:
        """By container id, service name or model name; living ones first, then the last that lived."""
        service = self._registry.find_service(tenant, name)
        model = service.model if service is not None else self._registry.models.get(name)
        found = [
            container
            for container in (*self._registry.containers.values(), *self._registry.departed)
            if container.title == name or (model is not None and container.spec.name == model.name)
        ]
        if not found:
            raise NotFound(f"{name!r} is no container, and no service or model that had one", name=name)
        return max(found, key=lambda container: (container.state is not State.GONE, container.id))

    # Questions.

    def _models(self, _: NoArgs, now_s: float) -> list[dict[str, Any]]:
        return [views.model_row(model) for model in self._registry.models.values()]

    def _services(self, args: ServicesArgs, now_s: float) -> list[dict[str, Any]]:
        return [
            views.service_row(service, self._journal)
            for service in self._registry.services.values()
            if not args.tenant or service.tenant == args.tenant
        ]

    def _ps(self, _: NoArgs, now_s: float) -> list[dict[str, Any]]:
        return [views.container_row(c, self._journal, now_s) for c in self._registry.containers.values()]

    def _nodes(self, _: NoArgs, now_s: float) -> list[dict[str, Any]]:
        return [views.node_row(node, self._journal) for node in self._registry.nodes.values()]

    def _events(self, args: EventsArgs, now_s: float) -> dict[str, Any]:
        events = self._journal.after(args.after, args.limit, args.subject)
        while len(rows := self._event_rows(events)) > 1 and len(msgspec.msgpack.encode(rows)) > EVENTS_NBYTES_MAX:
            events = events[: len(events) // 2] if args.after else events[len(events) // 2 :]
        return {"events": rows, "next": events[-1].seq if events else args.after}

    @staticmethod
    def _event_rows(events: list[Journalled]) -> list[dict[str, Any]]:
        return [
            {
                "seq": event.seq,
                "at": event.at,
                "kind": event.kind,
                "subject": event.subject,
                "reason": event.reason,
                "details": event.details,
            }
            for event in events
        ]
