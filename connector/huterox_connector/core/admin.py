"""The operator's verbs. Questions are answered at once; changes are on disk before they are acknowledged.

Changes go one after another: the first in line is checked, written (`Commit`), and only when it is on disk applied and
answered; then the next is checked. So a check always sees everything that was acknowledged before it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from huterox_connector.core.adminargs import (
    Args,
    CreateArgs,
    DeployArgs,
    EvictArgs,
    LogsArgs,
    NoArgs,
    NodeArgs,
    ServiceArgs,
    UndeployArgs,
)
from huterox_connector.core.changes import TENANT_DEFAULT, Apply, Change, Changes
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Answer, AskKernel, Commit, Effect, Refuse
from huterox_connector.core.events import AdminRequested
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lifecycle import State
from huterox_connector.core.listing import Listing
from huterox_connector.core.questions import Questions
from huterox_connector.core.records import Container
from huterox_connector.core.registry import Registry
from huterox_wire.errors import Busy, HuteroxError, InvalidInput, NotFound, Unavailable
from huterox_wire.ids import id_of
from huterox_wire.kinds import Kind
from huterox_wire.meta import AdminMeta, AdminReplyMeta
from huterox_wire.nodes import LogArgs

SAID_MAX: Final = 500
"""Characters of what is wrong with arguments."""


@dataclass(slots=True)
class Pending:
    """The change that is being written."""

    request: AdminRequested
    apply: Apply


class Admin:
    """Every verb, its arguments, and who may run beside whom."""

    def __init__(
        self,
        registry: Registry,
        leaving: Leaving,
        questions: Questions,
        listing: Listing,
        changes: Changes,
        config: CoreConfig,
        status: Callable[[float], dict[str, Any]],
        unanswered: Callable[[bytes], list[int]],
    ) -> None:
        self._registry = registry
        self._leaving = leaving
        self._asked = questions
        self._unanswered = unanswered
        self._config = config
        self._queue: deque[AdminRequested] = deque()
        self._pending: Pending | None = None
        self._ticket = 0
        self._questions = listing.questions(status)
        self._orders: dict[str, tuple[type[Args], Callable[[AdminRequested, Any, float], list[Effect]]]] = {
            "evict": (EvictArgs, self._evict),
            "logs": (LogsArgs, self._logs),
            "pending": (NoArgs, self._pending_of),
        }
        self._changes: dict[str, tuple[type[Args], Callable[[Any, float], Change]]] = {
            "deploy": (DeployArgs, changes.deploy),
            "undeploy": (UndeployArgs, changes.undeploy),
            "create": (CreateArgs, changes.create),
            "delete": (ServiceArgs, changes.delete),
            "pin": (ServiceArgs, changes.pin),
            "unpin": (ServiceArgs, changes.unpin),
            "drain": (NodeArgs, changes.drain),
            "resume": (NodeArgs, changes.resume),
        }

    @property
    def args_of(self) -> dict[str, type[Any]]:
        """The type of each verb's arguments."""
        return {verb: args for verb, (args, _) in {**self._questions, **self._orders, **self._changes}.items()}

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
                known = sorted(self.args_of)
                raise InvalidInput(f"unknown verb {verb!r}; known are {', '.join(known)}", known=known)
            if len(self._queue) >= self._config.mutations_max:
                raise Busy("too many changes wait for the disk", retry_after_s=self._config.busy_retry_after_s)
        except HuteroxError as error:
            return [Refuse(request.caller, request.request_id, error)]
        self._queue.append(request)
        return self._next_change(now_s)

    def _args(self, request: AdminRequested, args_type: type[Any]) -> Any:
        try:
            return msgspec.convert(request.meta.args, args_type)
        except (msgspec.ValidationError, RecursionError) as exc:
            fields = [field.name for field in msgspec.structs.fields(args_type)]
            why = str(exc)
            if len(why) > SAID_MAX:  # it names a field that may be as long as a message
                why = f"{why[:SAID_MAX]}…"
            raise InvalidInput(f"verb {request.meta.verb!r}: {why} (arguments: {', '.join(fields) or 'none'})") from exc

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

    # Orders.

    def _evict(self, request: AdminRequested, args: EvictArgs, now_s: float) -> list[Effect]:
        container = self._registry.containers.get(id_of("c", args.container))
        if container is None:
            raise NotFound(f"no container {args.container!r}", container=args.container)
        answer = self._answer(request, {"container": container.title})
        return [answer, *self._leaving.evict(container, "an operator asked for it", now_s)]

    def _pending_of(self, request: AdminRequested, _: NoArgs, now_s: float) -> list[Effect]:
        """Which of a caller's requests are not answered yet. A caller that has connected anew asks: others are lost."""
        changes = [self._pending.request] if self._pending is not None else []
        changes += self._queue
        ids = [change.request_id for change in changes if change.caller == request.caller]
        ids += self._unanswered(request.caller)
        return [self._answer(request, {"request_ids": sorted(ids)})]

    def _logs(self, request: AdminRequested, args: LogsArgs, now_s: float) -> list[Effect]:
        container = self._newest_container(args.name, args.tenant or TENANT_DEFAULT)
        log_args = msgspec.to_builtins(LogArgs(container.id, args.offset, args.limit))
        node = container.node
        late = Unavailable("the container's node did not answer in time")
        deadline_s = now_s + self._config.ask_timeout_s
        route = self._asked.put(request.caller, request.request_id, node.identity, 0, deadline_s, late)
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
        return max(found, key=lambda container: (container.state is not State.GONE, container.created_s))
