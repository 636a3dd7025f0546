"""What happens on the simulated platform at random: what people do, and what goes wrong."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.records import SimKernel, SimZygote, Size

if TYPE_CHECKING:
    from tests.simulation.world import World


ZYGOTES_MAX = 2


class Trouble:
    """Draws one thing after another."""

    def __init__(self, world: "World") -> None:
        self._world = world
        things: dict[Callable[[], object], float] = {
            world.callers.call: 48,
            self._burst: 3,
            world.callers.cancel: 2,
            world.callers.leave: 0.5,
            world.callers.stall: 0.5,
            world.lanes.lease: 6,
            world.lanes.call: 14,
            world.lanes.caller_dies: 2,
            world.operator.look: 2,
            self._pin: 2,
            self._create: 1.5,
            self._delete: 1.5,
            self._deploy: 1,
            self._undeploy: 0.4,
            self._drain_or_resume: 1,
            self._evict: 1.2,
            self._crash: 1.5,
            self._hang: 1,
            self._grow: 2,
            self._succeed: 1,
            self._take_memory: 2,
            self._sicken: 0.7,
            self._kill_kernel: 0.8,
            self._start_twin: 0.3,
            self._cut_off: 0.8,
            self._delete_unheard: 1.2,
            self._restart: 0.6,
        }
        self._things, self._weights = list(things), list(things.values())

    def disturb(self) -> None:
        """One thing."""
        self._world.random.choices(self._things, self._weights)[0]()

    # People.

    def _burst(self) -> None:
        handles = self._world.operator.handles
        if handles:
            handle = self._world.random.choice(handles)
            for _ in range(self._world.random.randint(3, 8)):
                self._world.callers.call(handle)

    def _service(self) -> tuple[str, str] | None:
        services = list(self._world.board.registry.services.values())
        if not services:
            return None
        service = self._world.random.choice(services)
        return service.tenant, service.name

    def _pin(self) -> None:
        if (title := self._service()) is not None:
            self._world.operator.pin(*title, verb=self._world.random.choice(["pin", "unpin", "unpin"]))

    def _create(self) -> None:
        operator = self._world.operator
        name = f"late{self._world.request_id()}"
        operator.create(name, self._world.random.choice(sorted(operator.versions)))

    def _delete(self) -> None:
        if (title := self._service()) is not None:
            self._world.operator.delete(*title)

    def _deploy(self) -> None:
        self._world.operator.deploy(self._world.random.choice(sorted(self._world.operator.versions)))

    def _undeploy(self) -> None:
        """And have it back after a while."""
        world = self._world
        name = world.random.choice(sorted(world.operator.versions))
        world.operator.undeploy(name, force=world.random.random() < 0.7)
        world.after(0.3, lambda: world.operator.deploy(name))
        world.after(0.6, lambda: world.operator.create(f"again{world.request_id()}", name))

    def _drain_or_resume(self) -> None:
        world = self._world
        names = sorted(world.board.registry.nodes_by_name)
        if names:
            name = world.random.choice(names)
            world.operator.ask("drain", name=name)
            world.after(world.random.uniform(0.1, 1.5), lambda: world.operator.ask("resume", name=name))

    def _evict(self) -> None:
        containers = list(self._world.board.registry.containers.values())
        if containers:
            self._world.operator.ask("evict", container=self._world.random.choice(containers).title)

    # What goes wrong.

    def _kernel(self) -> SimKernel | None:
        living = self._world.kernels.living()
        return self._world.random.choice(living) if living else None

    def _crash(self) -> None:
        kernel = self._kernel()
        if kernel is not None and kernel.containers:
            container = self._world.random.choice(list(kernel.containers.values()))
            self._world.kernels.gone(kernel, container, "crashed", "killed by SIGKILL")

    def _hang(self) -> None:
        """A model that never returns."""
        kernel = self._kernel()
        ready = [c for c in kernel.containers.values() if c.state == "ready"] if kernel is not None else []
        if kernel is not None and ready:
            self._world.kernels.hang(kernel, self._world.random.choice(ready))

    def _grow(self) -> None:
        """A container takes more than before, of what is free."""
        kernel, world = self._kernel(), self._world
        ready = [c for c in kernel.containers.values() if c.state == "ready"] if kernel is not None else []
        if kernel is None or not ready:
            return
        container, more = world.random.choice(ready), world.random.choice([0.05, 0.5, 2.0])
        size, free = container.size, kernel.free(world.now_s)
        host_mb = max(0, min(int(size.host_mb * more), free[""] - 1))
        device_mb = max(0, min(int(size.device_mb * more), free[container.device] - 1)) if container.device else 0
        container.size = Size(size.host_mb + host_mb, size.device_mb + device_mb)
        kernel.grown_mb[container.id] += host_mb

    def _succeed(self) -> None:
        """Another zygote forks from now on; the one before it ends with its last worker."""
        kernel, world = self._kernel(), self._world
        if kernel is None or len(kernel.zygotes) > ZYGOTES_MAX:
            return
        base_mb = max(0, min(world.random.choice([0, 30, 150]), kernel.free(world.now_s)[""] - 1))
        kernel.zygotes.append(SimZygote(base_mb, grown_mb=base_mb))
        kernel.end_zygotes()
        world.seen["succeeded"] += 1

    def _take_memory(self) -> None:
        """Other programs take memory of a machine and its devices, or give it back."""
        kernel, world = self._kernel(), self._world
        if kernel is None:
            return
        kernel.foreign_mb, kernel.foreign_device_mb = 0, {}
        for place, free_mb in kernel.free(world.now_s).items():
            taken_mb = max(0, min(world.random.choice([0, 100, 500, 2000]), free_mb - 1))
            if place:
                kernel.foreign_device_mb[place] = taken_mb
            else:
                kernel.foreign_mb = taken_mb

    def _sicken(self) -> None:
        """No load goes well there for a while."""
        if (kernel := self._kernel()) is not None:
            kernel.sick = True
            self._world.after(self._world.random.uniform(0.5, 2.0), lambda: setattr(kernel, "sick", False))

    def _kill_kernel(self) -> None:
        if (kernel := self._kernel()) is not None:
            world = self._world
            world.kernels.kill(kernel)
            world.after(world.random.uniform(0.1, 2.5), lambda: world.kernels.start(kernel.name))

    def _start_twin(self) -> None:
        """A second kernel of the same name; one of the two ends soon."""
        if (kernel := self._kernel()) is not None:
            world = self._world
            twin = world.kernels.start(kernel.name)
            world.after(world.random.uniform(0.1, 2.0), lambda: world.kernels.kill(world.random.choice([kernel, twin])))

    def _cut_off(self) -> None:
        """Nothing reaches a kernel, and nothing comes from there."""
        if (kernel := self._kernel()) is not None:
            kernel.reachable = False
            self._world.after(self._world.random.uniform(0.1, 2.5), lambda: self._world.kernels.connect(kernel))

    def _delete_unheard(self) -> None:
        """A service with a lane is deleted, and its kernel does not hear of it; the container has others to serve."""
        world = self._world
        services = world.board.registry.services
        lanes = [
            lane
            for lane in world.lanes.all
            if lane.kernel.reachable and lane.handle in services and len(services[lane.handle].group.services) > 1
        ]
        if lanes:
            lane = world.random.choice(lanes)
            lane.kernel.reachable = False
            world.after(world.random.uniform(0.05, 0.5), lambda: setattr(lane.kernel, "reachable", True))
            service = services[lane.handle]
            world.operator.delete(service.tenant, service.name)

    def _restart(self) -> None:
        """And sometimes the store is not what it was."""
        world = self._world
        how = world.random.choices([None, "lost", "rolled back"], [6, 2.5, 1.5])[0]
        if how == "lost":
            world.disk.lose()
        elif how == "rolled back":
            world.disk.roll_back()
        world.seen["restart"] += 1
        world.start_switchboard(store_changed=how is not None)
        if how is not None:
            world.seen[f"store {how}"] += 1
            world.operator.store_changed()
            self._begin_anew()

    def _begin_anew(self) -> None:
        """The operator deploys again what is gone, under names and versions of old, and makes services anew."""
        world = self._world
        operator, registry = world.operator, world.board.registry
        for name in [name for name in operator.versions if name not in registry.models]:
            operator.versions[name] = max(0, operator.versions[name] - world.random.choice([1, 1, 2]))
            after_s = world.random.uniform(0.0, 0.4)
            world.after(after_s, lambda name=name: operator.deploy(name))
            world.after(after_s + 0.02, lambda name=name: operator.create(f"service{name[-1]}", name))
