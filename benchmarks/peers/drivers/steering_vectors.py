"""steering-vectors: ``train_steering_vector`` and ``SteeringVector.apply``, as its README and documentation show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module

import torch

from benchmarks.peers.harness import Steered, plain

PACKAGES = ["steering-vectors"]
IMPORTS = (
    "from steering_vectors import SteeringVector, ablation_operator, train_steering_vector; "
    "from transformers import AutoModelForCausalLM, AutoTokenizer"
)
VARIANTS = ["", "batches of 32"]
ONLY = {"batches of 32": ("extract",)}
HOW = {
    "extract": "train_steering_vector(model, tokenizer, pairs): one pair at a time unless batch_size is given",
    "add_all": "SteeringVector({layer: v}).apply(model)",
    "ablate": "SteeringVector(..., layer_type).apply(model, operator=ablation_operator()) for decoder_block, "
    "self_attn and mlp",
}


class Driver:
    """steering-vectors on a transformers model."""

    # It has no layer type for the embedding or for a block's input.
    ABLATE_AT = ("attn_out", "mlp_out", "resid_post")

    def __init__(self, folder: str, variant: str) -> None:
        self.library = import_module("steering_vectors")
        self.model, self.tokenizer = plain(folder)
        self.batch_size = {"batch_size": 32} if variant else {}

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Its default aggregator is the mean of differences, at the last token of every layer."""
        pairs = list(zip(positive, negative, strict=True))
        vector = self.library.train_steering_vector(self.model, self.tokenizer, pairs, **self.batch_size)
        return torch.stack([vector.layer_activations[layer] for layer in sorted(vector.layer_activations)])

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """One vector holds all layers."""
        vector = self.library.SteeringVector(dict(enumerate(vectors)))
        with vector.apply(self.model):
            yield Steered(self.model)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """One vector for each layer type that writes to the stream."""
        layers = dict.fromkeys(range(self.model.config.num_hidden_layers), direction)
        with ExitStack() as stack:
            for layer_type in ("decoder_block", "self_attn", "mlp"):
                vector = self.library.SteeringVector(layers, layer_type)
                stack.enter_context(vector.apply(self.model, operator=self.library.ablation_operator()))
            yield Steered(self.model)
