"""Who exists: models, services, groups, containers, nodes; and the page table that leads from one to the other.

The page table is the field `Service.container`: set while a call can be forwarded, None where a call is a fault.
"""

from collections import deque
from typing import Final

from huterox_connector.core.ids import ContainerId, ServiceId
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Group, Model, Node, Service
from huterox_wire.errors import NotFound
from huterox_wire.nodes import ModelSpec

DEPARTED_MAX: Final = 256


class Registry:
    """Owns the records. Other parts of the core change a record's fields; only this adds and removes records."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.services: dict[ServiceId, Service] = {}
        self.groups: dict[tuple[str, ServiceId], Group] = {}
        self.containers: dict[ContainerId, Container] = {}
        self.nodes: dict[bytes, Node] = {}
        self.departed: deque[Container] = deque(maxlen=DEPARTED_MAX)  # the last that are gone, for their logs
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

    def node_named(self, name: str) -> Node | None:
        return next((node for node in self.nodes.values() if node.name == name), None)

    # Adding and removing.

    def put_model(self, spec: ModelSpec, deployed_at: float) -> Model:
        """Add a model, or give a known one its new specification."""
        if (model := self.models.get(spec.name)) is None:
            model = self.models[spec.name] = Model(spec, deployed_at)
        else:
            model.spec, model.deployed_at, model.load_s = spec, deployed_at, 0.0
        return model

    def remove_model(self, model: Model) -> None:
        """The model must have no service any more."""
        del self.models[model.name]
        self.groups.pop((model.name, 0), None)

    def add_service(
        self, service_id: ServiceId, name: str, tenant: str, tier: str, model: Model, created_at: float
    ) -> Service:
        group = self.group_of(model, service_id if tier == "dedicated" else 0)
        service = Service(service_id, name, tenant, tier, created_at, model, group)
        self.services[service_id] = model.services[service_id] = group.services[service_id] = service
        self._service_ids[tenant, name] = service_id
        if group.container is not None and group.container.state is State.READY:
            service.container = group.container
        return service

    def remove_service(self, service: Service) -> None:
        del self.services[service.id], self._service_ids[service.tenant, service.name]
        del service.model.services[service.id], service.group.services[service.id]
        service.container = None
        self._forget_if_empty(service.group)

    def group_of(self, model: Model, dedicated_to: ServiceId) -> Group:
        key = (model.name, dedicated_to)
        if (group := self.groups.get(key)) is None:
            group = self.groups[key] = Group(key, model)
        return group

    def add_container(self, container: Container) -> None:
        self.containers[container.id] = container
        container.node.containers[container.id] = container
        container.model.containers[container.id] = container
        container.group.container = container

    def remove_container(self, container: Container) -> None:
        self.unmap(container)
        del self.containers[container.id], container.node.containers[container.id]
        container.model.containers.pop(container.id, None)
        self.departed.append(container)
        self._forget_if_empty(container.group)

    def _forget_if_empty(self, group: Group) -> None:
        """A group without services and container: made again when somebody needs it."""
        if not group.services and group.container is None and self.groups.get(group.key) is group:
            del self.groups[group.key]

    # The page table.

    def map(self, container: Container) -> None:
        """Calls to the group's services can be forwarded to `container` from now on."""
        for service in container.group.services.values():
            service.container = container

    def unmap(self, container: Container) -> None:
        """Calls to the group's services are faults from now on."""
        group = container.group
        if group.container is container:
            group.container = None
            for service in group.services.values():
                service.container = None
