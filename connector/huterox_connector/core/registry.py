"""Who exists: models, services, groups, containers, nodes; and the page table that leads from one to the other.

The page table is the list `Group.ready`: the containers that take the calls of the group's services. Empty, a call is
a fault.
"""

from collections import OrderedDict, deque
from typing import Final

from huterox_connector.core.accesses import is_accessed
from huterox_connector.core.hotness import Hotness
from huterox_connector.core.ids import ContainerId, ServiceId
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Group, GroupKey, Model, Node, Service, Usage
from huterox_connector.core.sortedkeys import SortedKeys
from huterox_wire.errors import NotFound
from huterox_wire.nodes import ModelSpec

DEPARTED_MAX: Final = 256
_ON_ITS_WAY: Final = frozenset({State.PLANNED, State.CREATING})


class Registry:
    """Owns the records. Other parts of the core change a record's fields; only this adds and removes records."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.services: dict[ServiceId, Service] = {}
        self.groups: dict[GroupKey, Group] = {}
        self.containers: dict[ContainerId, Container] = {}
        self.nodes: OrderedDict[bytes, Node] = OrderedDict()  # who has been silent for the longest time comes first
        self.nodes_by_name: dict[str, Node] = {}
        self.departed: deque[Container] = deque(maxlen=DEPARTED_MAX)  # the last that are gone, for their logs
        self.model_names: SortedKeys[str] = SortedKeys()
        self.service_ids: SortedKeys[int] = SortedKeys()
        self.container_ids: SortedKeys[int] = SortedKeys()
        self.past_usage: dict[str, Usage] = {}  # of services that were deleted, by tenant
        self._groups_made = 0
        self._service_ids: dict[tuple[str, str], ServiceId] = {}

    # Look-ups that name what is missing.

    def model(self, name: str) -> Model:
        if (model := self.models.get(name)) is None:
            raise NotFound(f"no model named {name!r}", model=name)
        return model

    def find_service(self, tenant: str, name: str) -> Service | None:
        handle = self._service_ids.get((tenant, name))
        return None if handle is None else self.services[handle]

    def service(self, tenant: str, name: str) -> Service:
        if (service := self.find_service(tenant, name)) is None:
            raise NotFound(f"tenant {tenant!r} has no service named {name!r}", service=name, tenant=tenant)
        return service

    def node(self, name: str) -> Node:
        if (node := self.nodes_by_name.get(name)) is None:
            raise NotFound(f"no node named {name!r} is registered", node=name)
        return node

    # Adding and removing.

    def put_model(self, spec: ModelSpec, deployed_at: float) -> Model:
        """Add a model, or give a known one its new specification; what was measured holds for one version alone."""
        if (model := self.models.get(spec.name)) is None:
            model = self.models[spec.name] = Model(spec, deployed_at)
            self.model_names.add(spec.name)
            return model
        if model.spec != spec:
            model.footprints.clear()
        model.spec, model.deployed_at = spec, deployed_at
        return model

    def remove_model(self, model: Model) -> None:
        """The model must have no service any more."""
        del self.models[model.name]
        self.model_names.remove(model.name)
        if (group := self.groups.get((model.name, 0))) is not None and not group.resident:
            del self.groups[group.key]

    def add_service(self, service: Service) -> None:
        """Enter a service that was made with the group of `group_of`."""
        group = service.group
        self.services[service.id] = service.model.services[service.id] = group.services[service.id] = service
        self._service_ids[service.tenant, service.name] = service.id
        self.service_ids.add(service.id)
        group.pins += service.tier == "pinned"
        if service.lend:
            service.model.lenders[service.id] = service

    def remove_service(self, service: Service) -> None:
        """What it used stays with its tenant."""
        group = service.group
        del self.services[service.id], self._service_ids[service.tenant, service.name]
        self.service_ids.remove(service.id)
        del service.model.services[service.id], group.services[service.id]
        group.pins -= service.tier == "pinned"
        group.users -= service.id in group.accessed or service.id in group.recent
        group.accessed.pop(service.id, None)
        group.recent.pop(service.id, None)
        service.model.lenders.pop(service.id, None)
        self.past_usage.setdefault(service.tenant, Usage()).add(service.usage())
        self.forget_if_empty(group)

    def group_of(self, model: Model, dedicated_to: ServiceId, now_s: float) -> Group:
        key = (model.name, dedicated_to)
        if (group := self.groups.get(key)) is None:
            self._groups_made += 1  # each begins to look somewhere else
            group = self.groups[key] = Group(key, model, Hotness(now_s), looks=self._groups_made)
        return group

    def add_container(self, container: Container) -> None:
        self.containers[container.id] = container
        self.container_ids.add(container.id)
        container.node.containers[container.id] = container
        container.model.containers[container.id] = container
        container.group.coming[container.id] = container

    def remove_container(self, container: Container) -> None:
        self.unmap(container)
        del self.containers[container.id], container.node.containers[container.id]
        self.container_ids.remove(container.id)
        container.model.containers.pop(container.id, None)
        self.departed.append(container)
        self.forget_if_empty(container.group)

    def forget_if_empty(self, group: Group) -> None:
        """A group without services and container: made again when somebody needs it."""
        if not group.services and not group.resident and self.groups.get(group.key) is group:
            del self.groups[group.key]

    def add_node(self, node: Node) -> None:
        self.nodes[node.identity] = self.nodes_by_name[node.name] = node

    def remove_node(self, node: Node) -> None:
        del self.nodes[node.identity], self.nodes_by_name[node.name]

    def heard(self, node: Node, now_s: float) -> None:
        """Its kernel lives."""
        node.last_heartbeat_s = now_s
        self.nodes.move_to_end(node.identity)

    # The page table.

    def map(self, container: Container) -> None:
        """Calls to the group's services can be forwarded to `container` from now on."""
        container.group.coming.pop(container.id, None)
        container.group.ready.append(container)

    def unmap(self, container: Container) -> None:
        """`container` takes no more calls, and will not."""
        group = container.group
        group.coming.pop(container.id, None)
        if container in group.ready:
            group.ready.remove(container)


def bits(service: Service) -> list[str]:
    """The page table's bits of a service that are set."""
    group = service.group
    held = {
        "present": bool(group.ready),
        "loading": any(container.state in _ON_ITS_WAY for container in group.coming.values()),
        "pinned": group.pinned,
        "dedicated": group.dedicated,
        "accessed": is_accessed(service),
    }
    return [name for name, is_set in held.items() if is_set]
