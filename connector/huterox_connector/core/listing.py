"""The operator's questions: lists of records, page by page, since an answer holds a megabyte and a platform more."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from huterox_connector.core import views
from huterox_connector.core.adminargs import EventsArgs, NoArgs, PageArgs, ServicesArgs, UsageArgs
from huterox_connector.core.effects import Journalled
from huterox_connector.core.journal import Journal
from huterox_connector.core.records import Service, Usage
from huterox_connector.core.registry import Registry
from huterox_wire.ids import id_of, text_of
from huterox_wire.limits import META_NBYTES_MAX

PAGE_NBYTES_MAX: Final = META_NBYTES_MAX // 2

Page = dict[str, Any]
"""`rows`, and `next`: what to ask after for more; empty where there is none."""

_Key = TypeVar("_Key")


class Listing:
    """Answers at once, from the records as they are."""

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self._registry = registry
        self._journal = journal

    def models(self, args: PageArgs, now_s: float) -> Page:
        models = self._registry.models
        names = self._registry.model_names.after(args.after)
        return _page(names, lambda name: views.model_row(models[name]), str)

    def services(self, args: ServicesArgs, now_s: float) -> Page:
        return _page(
            self._asked_for(args),
            lambda service: views.service_row(service, self._journal, now_s),
            lambda service: text_of("s", service.id),
        )

    def _asked_for(self, args: ServicesArgs | UsageArgs) -> Iterator[Service]:
        """Services in the order of their ids, of one tenant or of all."""
        services = self._registry.services
        handles = self._registry.service_ids.after(id_of("s", args.after) if args.after else 0)
        return (services[handle] for handle in handles if not args.tenant or services[handle].tenant == args.tenant)

    def ps(self, args: PageArgs, now_s: float) -> Page:
        containers = self._registry.containers
        after = id_of("c", args.after) if args.after else 0
        return _page(
            self._registry.container_ids.after(after),
            lambda cid: views.container_row(containers[cid], self._journal, now_s),
            lambda cid: text_of("c", cid),
        )

    def nodes(self, args: PageArgs, now_s: float) -> Page:
        nodes = self._registry.nodes_by_name
        names = sorted(name for name in nodes if name > args.after)
        return _page(names, lambda name: views.node_row(nodes[name], self._journal, now_s), str)

    def usage(self, args: UsageArgs, now_s: float) -> Page:
        """What tenants have used, deleted services included; or what services have."""
        if args.by == "service":
            return self._usage_of_services(args)
        counts: Counter[str] = Counter()
        totals: dict[str, Usage] = {}
        for tenant, past in self._registry.past_usage.items():
            totals.setdefault(tenant, Usage()).add(past)
        for service in self._registry.services.values():
            counts[service.tenant] += 1
            totals.setdefault(service.tenant, Usage()).add(service.usage())
        names = sorted(t for t in totals if t > args.after and (not args.tenant or t == args.tenant))
        return _page(names, lambda tenant: views.usage_row(tenant, counts[tenant], totals[tenant]), str)

    def _usage_of_services(self, args: UsageArgs) -> Page:
        def row(service: Service) -> dict[str, Any]:
            used = views.usage_row(service.tenant, 1, service.usage())
            return {"service": service.name, "id": text_of("s", service.id), **used}

        return _page(self._asked_for(args), row, lambda service: text_of("s", service.id))

    def events(self, args: EventsArgs, now_s: float) -> dict[str, Any]:
        """`more`: there may be more than these between the same ends, since an answer holds only so much."""
        events = self._journal.between(args.after, args.before, args.limit, args.subject)
        found = len(events)
        while len(rows := _event_rows(events)) > 1 and len(msgspec.msgpack.encode(rows)) > PAGE_NBYTES_MAX:
            events = events[: len(events) // 2] if args.after else events[len(events) // 2 :]
        more = len(events) < found or found == args.limit
        return {"events": rows, "next": events[-1].seq if events else args.after, "more": more}

    def questions(self, status: Callable[[float], dict[str, Any]]) -> dict[str, tuple[type[Any], Callable[..., Any]]]:
        """Every verb that only asks, with the type of its arguments."""
        return {
            "status": (NoArgs, lambda _, now_s: status(now_s)),
            "models": (PageArgs, self.models),
            "services": (ServicesArgs, self.services),
            "ps": (PageArgs, self.ps),
            "nodes": (PageArgs, self.nodes),
            "usage": (UsageArgs, self.usage),
            "events": (EventsArgs, self.events),
        }


def _page(keys: Iterable[_Key], row: Callable[[_Key], dict[str, Any]], name: Callable[[_Key], str]) -> Page:
    """As many rows as an answer holds, and what to ask after for the rest; empty: there is no more."""
    rows: list[dict[str, Any]] = []
    nbytes, last = 0, ""
    for key in keys:
        made = row(key)
        nbytes += len(msgspec.msgpack.encode(made))
        if rows and nbytes > PAGE_NBYTES_MAX:
            return {"rows": rows, "next": last}
        rows.append(made)
        last = name(key)
    return {"rows": rows, "next": ""}


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
