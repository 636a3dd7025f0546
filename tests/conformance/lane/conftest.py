from collections.abc import Iterator

import pytest
from tests.conformance.lane.lanes import MAKERS, Lane, make_memory_lane


@pytest.fixture(params=MAKERS)
def make_lane(request):
    """The maker of one kind of lane, for tests that need several or other sizes."""
    return MAKERS[request.param]


@pytest.fixture
def lane(make_lane) -> Iterator[Lane]:
    made = make_lane()
    yield made
    made.close()


@pytest.fixture
def memory_lane_maker():
    """Only the kind without an operating system, for thousands of examples."""
    return make_memory_lane
