import pytest
from tests.connector.harness import Harness


@pytest.fixture
def harness() -> Harness:
    return Harness()
