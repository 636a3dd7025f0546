"""Pinning a lane for a device, with CUDA's part played; the real one is marked gpu."""

from collections.abc import Iterator

import numpy as np
import pytest

from huterox_kernel.worker import pinned
from huterox_kernel.worker.pinned import pin
from huterox_shm.errors import LaneFull
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane

HALF_NBYTES = 1024 * 1024


class Cudart:
    """Remembers what it was asked to register."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.registered: list[tuple[int, int, int]] = []

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.registered.append((address, nbytes, flags))
        return self.code


@pytest.fixture
def ends() -> Iterator[tuple[CallerEnd, ContainerEnd]]:
    descriptors = create_lane(LaneConfig(128, HALF_NBYTES, HALF_NBYTES), 1)
    caller, container = CallerEnd.attach(descriptors.duplicate()), ContainerEnd.attach(descriptors)
    yield caller, container
    caller.close()
    container.close()


def used(end: CallerEnd | ContainerEnd) -> None:
    """Take and give back memory, so that there is something to trim."""
    end.abandon(end.claim(HALF_NBYTES // 2))


def test_without_cuda_nothing_happens_and_the_reason_is_told(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    caller, container = ends
    assert "CUDA" in pin(container)
    used(caller)
    assert caller.trim() > 0


def test_the_whole_segment_is_registered_once_and_never_trimmed(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    container = ends[1]
    cudart = Cudart()
    assert pin(container, cudart) == ""
    nbytes = container.layout.segment_nbytes
    address = np.frombuffer(container.readable, np.uint8).ctypes.data
    assert cudart.registered == [(address, nbytes, 0)]
    for end in ends:
        used(end)
        assert end.trim() == 0


def test_a_driver_that_refuses_leaves_the_lane_pageable(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    caller, container = ends
    assert "error 2" in pin(container, Cudart(2))
    used(caller)
    assert caller.trim() > 0


def test_a_lane_over_the_limit_stays_pageable(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "PINNED_NBYTES_MAX", HALF_NBYTES)
    cudart = Cudart()
    assert "at most" in pin(ends[1], cudart)
    assert not cudart.registered


def test_without_memory_for_all_pages_the_lane_stays_pageable(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_end: ContainerEnd) -> None:
        raise LaneFull("the system has no memory left")

    monkeypatch.setattr(ContainerEnd, "reserve_all", refuse)
    cudart = Cudart()
    assert "no memory" in pin(ends[1], cudart)
    assert not cudart.registered


@pytest.mark.gpu
def test_a_pinned_lane_is_pinned_for_torch(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    import torch

    torch.zeros(1, device="cuda")
    assert pin(ends[1]) == ""
    assert torch.from_numpy(np.frombuffer(ends[1].writable, np.uint8)).is_pinned()
