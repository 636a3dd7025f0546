"""Pinning a lane for a device, with CUDA's part played; the real one is marked gpu."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from huterox_kernel.worker import pinned
from huterox_kernel.worker.pinned import Pinned, forget_error
from huterox_shm.errors import LaneFull
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane

from ..driver.cuda import HOST_MEMORY_NOT_REGISTERED, Cudart

HALF_NBYTES = 1024 * 1024
_generations = count(1)


def make_ends() -> tuple[CallerEnd, ContainerEnd]:
    descriptors = create_lane(LaneConfig(128, HALF_NBYTES, HALF_NBYTES), next(_generations))
    return CallerEnd.attach(descriptors.duplicate()), ContainerEnd.attach(descriptors)


@pytest.fixture
def ends() -> Iterator[tuple[CallerEnd, ContainerEnd]]:
    caller, container = make_ends()
    yield caller, container
    caller.close()
    container.close()


def used(end: CallerEnd | ContainerEnd) -> None:
    """Take and give back memory, so that there is something to trim."""
    end.abandon(end.claim(HALF_NBYTES // 2))


def mappings(nbytes: int) -> int:
    """How many lanes of this size are mapped here."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "huterox-lane" in line]
    return sum(int(end, 16) - int(begin, 16) == nbytes for begin, end in spans)


def test_without_cuda_nothing_happens_and_the_reason_is_told(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(pinned.sys.modules, "torch", raising=False)
    caller, container = ends
    registered = Pinned()
    assert "CUDA" in registered.pin(container)
    registered.unpin(container)
    used(caller)
    assert caller.trim() > 0


def test_the_whole_segment_is_registered_once_and_never_trimmed(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    container = ends[1]
    cudart = Cudart()
    assert Pinned(cudart).pin(container) == ""
    nbytes = container.layout.segment_nbytes
    address = np.frombuffer(container.readable, np.uint8).ctypes.data
    assert cudart.registered == {address: nbytes}
    assert address % 4096 == nbytes % 4096 == 0
    for end in ends:
        used(end)
        assert end.trim() == 0


def test_lanes_that_come_and_go_leave_nothing_registered() -> None:
    """Or what is mapped at the same address next would be copied from pages of the lane that has gone."""
    cudart = Cudart()
    registered = Pinned(cudart)
    for _ in range(20):
        caller, container = make_ends()
        assert registered.pin(container) == ""
        assert len(cudart.registered) == 1
        registered.unpin(container)
        assert not cudart.registered
        caller.close()
        container.close()


def test_a_lane_that_cannot_be_unregistered_stays_mapped() -> None:
    caller, container = make_ends()
    nbytes = container.layout.segment_nbytes
    before = mappings(nbytes)
    cudart = Cudart()
    registered = Pinned(cudart)
    assert registered.pin(container) == ""
    cudart.unregister_code = HOST_MEMORY_NOT_REGISTERED
    registered.unpin(container)
    caller.close()
    container.close()
    assert mappings(nbytes) == before - 1
    assert cudart.last_error == 0


def test_a_driver_that_refuses_leaves_the_lane_pageable_and_is_made_to_forget(
    ends: tuple[CallerEnd, ContainerEnd],
) -> None:
    """CUDA's runtime tells the error again at the next launch, and the model would be blamed."""
    caller, container = ends
    cudart = Cudart(register_code=2)
    assert "error 2" in Pinned(cudart).pin(container)
    assert cudart.last_error == 0
    used(caller)
    assert caller.trim() > 0


def test_where_torch_cannot_forget_the_library_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any library stands in for CUDA's: it is found by its name in this process, and its function is called."""
    asked: list[str] = []
    monkeypatch.setattr(pinned, "_mapped", lambda name: {f"/lib/{name}.so.13", f"/lib/{name}-5c3f.so.12"})

    class Library:
        def __init__(self, path: str) -> None:
            self.path = path

        def cudaGetLastError(self) -> int:
            asked.append(self.path)
            return 2

    monkeypatch.setattr("ctypes.CDLL", Library)
    forget_error(object())
    assert sorted(asked) == ["/lib/libcudart-5c3f.so.12", "/lib/libcudart.so.13"]


def test_libraries_are_found_by_the_beginning_of_their_name() -> None:
    (path,) = {path for path in pinned._mapped("libc.") if path.rpartition("/")[2].startswith("libc.so")}
    assert Path(path).is_file()
    assert not pinned._mapped("libnever")


def test_a_lane_over_the_limit_stays_pageable(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "PINNED_NBYTES_MAX", HALF_NBYTES)
    cudart = Cudart()
    assert "at most" in Pinned(cudart).pin(ends[1])
    assert not cudart.registered


def test_no_more_lanes_are_pinned_than_have_room_together(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "ALL_NBYTES_MAX", ends[1].layout.segment_nbytes)
    registered = Pinned(Cudart())
    other_caller, other = make_ends()
    assert registered.pin(ends[1]) == ""
    assert "other lanes" in registered.pin(other)
    registered.unpin(ends[1])
    assert registered.pin(other) == ""
    registered.unpin(other)
    other_caller.close()
    other.close()


def test_without_memory_for_all_pages_the_lane_stays_pageable(
    ends: tuple[CallerEnd, ContainerEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_end: ContainerEnd) -> None:
        raise LaneFull("the system has no memory left")

    monkeypatch.setattr(ContainerEnd, "reserve_all", refuse)
    cudart = Cudart()
    assert "no memory" in Pinned(cudart).pin(ends[1])
    assert not cudart.registered


@pytest.mark.gpu
def test_a_pinned_lane_is_pinned_for_torch(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    import torch

    torch.zeros(1, device="cuda")
    registered = Pinned()
    assert registered.pin(ends[1]) == ""
    array = np.frombuffer(ends[1].writable, np.uint8)
    assert torch.from_numpy(array).is_pinned()
    registered.unpin(ends[1])
    assert not torch.from_numpy(array).is_pinned()


@pytest.mark.gpu
def test_a_refused_registration_is_not_told_again_at_the_next_launch(ends: tuple[CallerEnd, ContainerEnd]) -> None:
    import torch

    torch.zeros(1, device="cuda")
    cudart = torch.cuda.cudart()
    first, second = Pinned(), Pinned()
    assert first.pin(ends[1]) == ""
    assert "error" in second.pin(ends[1])  # it is registered already
    assert torch.ones(8, device="cuda").add(1).sum().item() == 16
    first.unpin(ends[1])
    assert int(cudart.cudaHostUnregister(ends[1].address)) != 0
    forget_error(cudart)
    assert torch.ones(8, device="cuda").add(1).sum().item() == 16


@pytest.mark.gpu
def test_what_is_mapped_after_a_lane_is_copied_as_it_is() -> None:
    import torch

    torch.zeros(1, device="cuda")
    registered = Pinned()
    for value in range(1, 20):
        caller, container = make_ends()
        assert registered.pin(container) == ""
        array = np.frombuffer(container.writable, np.uint8)[-HALF_NBYTES:]
        array[:] = value
        assert torch.from_numpy(array).to("cuda").float().mean().item() == value
        del array
        registered.unpin(container)
        caller.close()
        container.close()
