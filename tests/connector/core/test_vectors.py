"""Sums of what containers take."""

import pytest

from huterox_connector.core.vectors import MIB, Amounts, Charge

BOTH = Charge(1, 100, "gpu0", 50)


def room(slots: int = 0, host: int = 0, **devices: int) -> Amounts:
    return Amounts(slots, host, devices)


def test_what_is_added_and_taken_away_again_leaves_nothing() -> None:
    amounts = room(1, 10, gpu1=5)
    amounts.add(BOTH)
    assert amounts == room(2, 110, gpu0=50, gpu1=5)
    amounts.remove(BOTH)
    assert amounts == room(1, 10, gpu1=5)


@pytest.mark.parametrize(
    ("free", "holds"),
    [
        (room(1, 100, gpu0=50), True),
        (room(0, 100, gpu0=50), False),
        (room(1, 99, gpu0=50), False),
        (room(1, 100, gpu0=49), False),
        (room(1, 100, gpu1=50), False),
        (room(1, 100), False),
    ],
    ids=["just fits", "no slot", "host memory short", "device short", "another device", "no device"],
)
def test_charge_fits_where_every_part_fits(free: Amounts, holds: bool) -> None:
    assert free.hold(BOTH) is holds


def test_charge_without_a_device_needs_none() -> None:
    assert room(1, 100).hold(Charge(1, 100))


@pytest.mark.parametrize(
    ("victim", "helps"),
    [
        (Charge(1, 100), False),  # neither slots nor host memory are short
        (Charge(1, 100, "gpu1", 50), False),
        (Charge(1, 0, "gpu0", 0), False),
        (Charge(1, 0, "gpu0", 1), True),
    ],
)
def test_only_what_frees_something_short_helps(victim: Charge, helps: bool) -> None:
    assert room(5, 1000, gpu0=10, gpu1=0).helps(BOTH, victim) is helps


def test_any_part_below_zero_is_overdrawn() -> None:
    assert not room(0, 0, gpu0=0).overdrawn
    assert room(-1, 0).overdrawn
    assert room(0, -1).overdrawn
    assert room(0, 0, gpu0=1, gpu1=-1).overdrawn


def test_difference_keeps_the_devices_of_the_whole() -> None:
    assert room(4, 1000, gpu0=100, gpu1=100).less(room(1, 300, gpu0=30)) == room(3, 700, gpu0=70, gpu1=100)


def test_facts_are_in_mebibytes() -> None:
    assert Charge(1, 3 * MIB, "gpu0", 2 * MIB).facts() == {"slots": 1, "host_mb": 3, "device": "gpu0", "device_mb": 2}
    assert room(2, 3 * MIB, gpu0=4 * MIB).facts() == {"slots": 2, "host_mb": 3, "devices_mb": {"gpu0": 4}}
