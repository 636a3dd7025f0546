"""What containers take and nodes have, as vectors: slots, host memory, memory of each device.

A `Charge` is one container's part: at most one device. `Amounts` is a sum of charges, a node's capacity, or the
difference of the two. Amounts may be negative: a node can hold more than it should, when containers grow or others
take memory away.
"""

from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1024 * 1024


@dataclass(slots=True, frozen=True)
class Charge:
    """What one container takes from its node. `device` is empty where it uses none."""

    slots: int
    host_bytes: int
    device: str = ""
    device_bytes: int = 0

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"slots": self.slots, "host_mb": self.host_bytes // MIB}
        if self.device or self.device_bytes:
            facts |= {"device": self.device, "device_mb": self.device_bytes // MIB}
        return facts

    @property
    def nbytes(self) -> int:
        """All its memory, wherever it is."""
        return self.host_bytes + self.device_bytes


class Amounts:
    """A vector that changes. Devices that are not named count as 0."""

    __slots__ = ("devices", "host_bytes", "slots")

    def __init__(self, slots: int = 0, host_bytes: int = 0, devices: dict[str, int] | None = None) -> None:
        self.slots = slots
        self.host_bytes = host_bytes
        self.devices: dict[str, int] = {} if devices is None else devices

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Amounts):
            return NotImplemented
        held, others = self.devices, other.devices
        same = all(held.get(device, 0) == others.get(device, 0) for device in {*held, *others})
        return same and (self.slots, self.host_bytes) == (other.slots, other.host_bytes)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Amounts({self.slots}, {self.host_bytes}, {self.devices})"

    def add(self, charge: Charge) -> None:
        self.slots += charge.slots
        self.host_bytes += charge.host_bytes
        if charge.device:
            self.devices[charge.device] = self.devices.get(charge.device, 0) + charge.device_bytes

    def remove(self, charge: Charge) -> None:
        self.slots -= charge.slots
        self.host_bytes -= charge.host_bytes
        if charge.device:
            self.devices[charge.device] = self.devices.get(charge.device, 0) - charge.device_bytes

    def less(self, other: "Amounts") -> "Amounts":
        """What is left of these after `other`."""
        devices = {device: nbytes - other.devices.get(device, 0) for device, nbytes in self.devices.items()}
        return Amounts(self.slots - other.slots, self.host_bytes - other.host_bytes, devices)

    def hold(self, charge: Charge) -> bool:
        """Whether `charge` fits in."""
        return (
            charge.slots <= self.slots
            and charge.host_bytes <= self.host_bytes
            and (not charge.device or charge.device_bytes <= self.devices.get(charge.device, 0))
        )

    def helps(self, charge: Charge, victim: Charge) -> bool:
        """Whether giving `victim` back brings `charge` nearer to fitting in: it frees something that is short."""
        on_device = charge.device and victim.device == charge.device and victim.device_bytes > 0
        return bool(
            (on_device and charge.device_bytes > self.devices.get(charge.device, 0))
            or (victim.host_bytes > 0 and charge.host_bytes > self.host_bytes)
            or (victim.slots > 0 and charge.slots > self.slots)
        )

    @property
    def overdrawn(self) -> bool:
        """Whether more is held than there is."""
        return self.slots < 0 or self.host_bytes < 0 or any(nbytes < 0 for nbytes in self.devices.values())

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"slots": self.slots, "host_mb": self.host_bytes // MIB}
        if self.devices:
            facts["devices_mb"] = {device: nbytes // MIB for device, nbytes in self.devices.items()}
        return facts
