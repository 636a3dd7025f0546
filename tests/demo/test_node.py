from types import ModuleType

import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node_module(load_demo_module) -> ModuleType:
    return load_demo_module("node.py")


def test_node_that_cannot_start_is_reported_with_its_log(node_module):
    node = node_module.Node(slots=-1, host_mb=1)
    try:
        with pytest.raises(node_module.DemoFailed, match="before it was ready"):
            list(node.wait_ready())
        assert "up.log" in node.log_tails()
    finally:
        assert node.stop() == []
    assert not node.folder.exists()
