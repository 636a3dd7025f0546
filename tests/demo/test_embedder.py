from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch

# The first numbers of the first three sentences' vectors, as the library sentence-transformers computes them.
REFERENCE = [
    [0.159077, -0.078513, -0.055253, 0.031273, 0.008495, 0.027221],
    [0.034423, -0.059167, -0.039915, 0.019491, 0.030058, -0.053009],
    [0.051274, -0.023649, -0.04089, 0.073214, 0.02201, 0.030985],
]


@pytest.fixture(scope="module")
def embedder(embedder_module: ModuleType) -> Any:
    model = embedder_module.Embedder()
    model.warmup()
    return model


def test_vectors_equal_those_of_the_reference_library(embedder, inputs):
    vectors = embedder.predict(inputs.SENTENCES)
    assert vectors.shape == (len(inputs.SENTENCES), 384)
    assert vectors.dtype == np.float32
    assert vectors[:3, :6] == pytest.approx(np.array(REFERENCE), abs=1e-5)


def test_vectors_have_length_one(embedder, inputs):
    assert np.linalg.norm(embedder.predict(inputs.SENTENCES), axis=1) == pytest.approx(1.0, abs=1e-5)


def test_sentences_of_like_meaning_are_closest(embedder, inputs):
    vectors = embedder.predict(inputs.SENTENCES)
    likeness = np.triu(vectors @ vectors.T, k=1)
    assert np.unravel_index(likeness.argmax(), likeness.shape) == inputs.CLOSEST


def test_company_does_not_change_a_sentence(embedder):
    alone = embedder.predict(["Short."])
    beside = embedder.predict(["Short.", "A much longer sentence, for which the short one has to be padded."])
    assert beside[0] == pytest.approx(alone[0], abs=1e-5)


def test_overlong_text_is_cut_off(embedder):
    assert np.isfinite(embedder.predict(["word " * 2000, ""])).all()


def test_no_sentences_give_no_vectors(embedder):
    assert embedder.predict([]).shape == (0, 384)


@pytest.mark.parametrize("sentences", ["one text", [1, 2], None])
def test_anything_but_a_list_of_text_is_refused(embedder, sentences):
    with pytest.raises(ValueError, match="list of text"):
        embedder.predict(sentences)
