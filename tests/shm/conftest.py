import gc
from pathlib import Path

import pytest


def descriptor_count():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def no_descriptor_leaks():
    """Fails a test after which more descriptors are open than before."""
    gc.collect()
    before = descriptor_count()
    yield
    gc.collect()
    assert descriptor_count() == before


@pytest.fixture
def fds():
    """How many descriptors are open now, as a function."""
    return descriptor_count
