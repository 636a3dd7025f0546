from types import ModuleType

import numpy as np
import pytest

import huterox

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


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_real_weights_without_a_class_answer_as_the_class_does(node_module, inputs, vad_module):
    model = {"name": "raw", "runtime": "torchscript", "entry": str(vad_module.weights_path())}
    audio = inputs.recording().audio
    node = node_module.Node(slots=1, host_mb=1024)
    try:
        list(node.wait_ready())
        with huterox.connect(node.endpoint, timeout=60.0) as client:
            client.deploy(model)
            client.create("raw", model="raw")
            result = client.service("raw").call("audio_forward", x=audio[None], sr=vad_module.SAMPLE_RATE_HZ)
    finally:
        assert node.stop() == []
    import torch

    expected = vad_module.Vad().predict(torch.from_numpy(audio))["probability"]
    assert np.array_equal(result["result"][0], expected)
