import gc
import os
from pathlib import Path

import pytest
from tests.conformance.lane.lanes import lane_of

from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane

SMALL = LaneConfig(128, 1 << 20, 1 << 20)


def descriptor_count():
    gc.collect()  # what earlier tests have left is not counted
    return len(list(Path("/proc/self/fd").iterdir()))


def mapping_count():
    """How many mappings of lanes and ledgers this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:huterox-lane")


@pytest.fixture
def no_descriptor_leaks():
    """Fails a test after which more descriptors are open, or more shared memory is mapped, than before."""
    before = descriptor_count(), mapping_count()
    yield
    if (descriptor_count(), mapping_count()) != before:
        gc.collect()  # not always: it takes longer than most tests
        assert descriptor_count() <= before[0]
        assert mapping_count() <= before[1]


@pytest.fixture
def fds():
    """How many descriptors are open now, as a function."""
    gc.collect()  # what earlier tests have left must not go in between
    return descriptor_count


@pytest.fixture
def mappings():
    """How many mappings of lanes there are now, as a function."""
    return mapping_count


@pytest.fixture
def descriptors(no_descriptor_leaks):
    """Of a small lane; whoever takes them over closes them."""
    return create_lane(SMALL, 7)


@pytest.fixture
def ends(descriptors):
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        yield caller, container


@pytest.fixture
def lane(ends):
    """The same, for the helpers of the conformance tests."""
    return lane_of(*ends)


@pytest.fixture
def pages():
    """How many bytes of pages the memfd of an end has now, as a function."""
    return lambda end: os.fstat(end._memory.fd).st_blocks * 512
