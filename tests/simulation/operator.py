"""The operator of the simulated platform: every verb, what was acknowledged, and what lists must show."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.simulation.shapes import draw_model, draw_service

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.records import Service
from huterox_wire.errors import Busy, Conflict, HuteroxError, InvalidInput, NotFound, Unavailable
from huterox_wire.meta import AdminMeta, AdminReplyMeta, OpenedMeta, OpenMeta

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = tuple[bytes, int]
OnAnswer = Callable[[Any], object]
Title = tuple[str, str]
"""A service's tenant and name."""

LISTS = {"services": "id", "ps": "id", "nodes": "node", "models": "name", "usage": "tenant"}
"""Every list, and what names a row of it."""
_EXPECTED = (Busy, Conflict, InvalidInput, NotFound, Unavailable)


class Operator:
    """Asks for changes and lists. `tiers` is what has been acknowledged."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._open: dict[Key, tuple[OnAnswer, tuple[Title, ...]]] = {}
        self.versions: dict[str, int] = {}
        self.handles: list[int] = []
        self.tiers: dict[Title, str] = {}
        self._models: dict[Title, str] = {}  # of all services that were asked for
        self._deployments = count(1)
        self._creations = count(1)
        self._opened: dict[int, str] = {}  # handle -> the creation of the service that it was opened for
        self.changing: Counter[Title] = Counter()  # changes of which nothing was heard yet, or never will be

    def switchboard_started(self) -> None:
        self._open.clear()

    def store_changed(self) -> None:
        """What was acknowledged has gone, or has come back: what the new switchboard knows holds from now on."""
        services = self._world.board.registry.services
        self.tiers = {(service.tenant, service.name): service.tier for service in services.values()}
        self.handles.sort(key=lambda handle: handle not in services)  # old ones are tried, too, but less often

    def check_handle(self, handle: int, service: Service) -> None:
        """The switchboard takes a handle for this service."""
        creation = service.info["creation"]
        meant = self._opened.setdefault(handle, creation)
        assert meant == creation, f"handle {handle} was opened for creation {meant}, and leads to {creation}"

    # Asking.

    def ask(self, verb: str, on_answer: OnAnswer = lambda _: None, about: Iterable[Title] = (), **args: Any) -> None:
        """`about`: the services that it changes."""
        key, titles = (b"operator", self._world.request_id()), tuple(about)
        self.changing.update(titles)
        self._open[key] = on_answer, titles
        self._world.on(happened.AdminRequested(*key, AdminMeta(verb, args)))

    def answered(self, effect: asked.Answer) -> None:
        on_answer, titles = self._open.pop((effect.caller, effect.request_id))
        self.changing.subtract(titles)
        on_answer(effect.meta.result if isinstance(effect.meta, AdminReplyMeta) else effect.meta)

    def refused(self, key: Key, error: HuteroxError) -> bool:
        if key not in self._open:
            return False
        assert isinstance(error, _EXPECTED), f"a verb was refused: {error!r}"
        self.changing.subtract(self._open.pop(key)[1])
        return True

    # Changes.

    def deploy(self, name: str, **more: Any) -> None:
        version = self.versions[name] = self.versions.get(name, 0) + 1
        params = {"deployment": next(self._deployments)}
        self.ask("deploy", model={**draw_model(self._world.random, name, version), "params": params, **more})

    def create(self, name: str, model: str, **more: Any) -> None:
        drawn = {**draw_service(self._world.random), **more}
        title, key = (drawn["tenant"], name), (b"opener", self._world.request_id())

        self._models[title] = model
        creation = str(next(self._creations))

        def opened(meta: OpenedMeta) -> None:
            self.handles.append(meta.handle)
            self.check_handle(meta.handle, self._world.board.registry.services[meta.handle])

        def created(row: dict[str, Any]) -> None:
            self.tiers[title] = row["tier"]
            self._open[key] = opened, ()
            self._world.on(happened.OpenRequested(*key, OpenMeta(name, drawn["tenant"])))

        self.ask("create", created, [title], name=name, model=model, info={"creation": creation}, **drawn)

    def delete(self, tenant: str, name: str) -> None:
        title = tenant, name
        self.ask("delete", lambda _: self.tiers.pop(title, None), [title], tenant=tenant, name=name)

    def pin(self, tenant: str, name: str, verb: str = "pin") -> None:
        """Or unpin."""

        def changed(row: dict[str, Any]) -> None:
            self.tiers[tenant, name] = row["tier"]

        self.ask(verb, changed, [(tenant, name)], tenant=tenant, name=name)

    def undeploy(self, name: str, *, force: bool) -> None:
        titles = [title for title, model in self._models.items() if model == name]

        def gone(_: Any) -> None:
            for title in titles:
                self.tiers.pop(title, None)

        self.ask("undeploy", gone, titles, name=name, force=force)

    # Lists.

    def look(self) -> None:
        """Read a list page by page: no row is missing and none comes twice."""
        verb = self._world.random.choice([*LISTS, "events", "status", "usage by service"])
        if verb in LISTS:
            self._read(verb, LISTS[verb])
        elif verb == "usage by service":
            self._read("usage", "id", by="service")
        else:
            self.ask(verb)

    def _read(self, verb: str, name: str, **args: Any) -> None:
        rows: list[dict[str, Any]] = []
        after = ""
        for _ in range(200):
            pages: list[dict[str, Any]] = []
            self.ask(verb, pages.append, after=after, **args)
            rows += pages[0]["rows"]
            after = pages[0]["next"]
            if not after:
                break
        assert not after, f"the list {verb} has no end"
        names = [row[name] for row in rows]
        assert len(set(names)) == len(names), f"the list {verb} shows rows twice: {names}"
        registry = self._world.board.registry
        expected = {
            "services": registry.services,
            "ps": registry.containers,
            "nodes": registry.nodes,
            "models": registry.models,
        }
        if verb in expected:
            assert len(rows) == len(expected[verb]), f"the list {verb} has {len(rows)} rows"
