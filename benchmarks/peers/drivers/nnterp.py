"""nnterp: ``StandardizedTransformer``, nnsight with names that are the same for every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers.harness import Steered

PACKAGES = ["nnterp", "nnsight"]
IMPORTS = "import torch; from nnterp import StandardizedTransformer"
VARIANTS = [""]
HOW = {
    "extract": "nnterp.nnsight_utils.collect_token_activations_batched(model, texts, 32)",
    "add_all": "model.steer(layers=i, steering_vector=v) for every layer, at every step of tracer.iter",
    "ablate": "x - (x @ r)[..., None] * r set at layers_input, attentions_output and mlps_output of every layer",
}


class Adding(Steered):
    """The edit is part of the call: nnsight reads the body of the ``with`` block."""

    def __init__(self, model: Any, vectors: torch.Tensor) -> None:
        super().__init__(model)
        self.vectors = vectors

    def logits(self, ids: Any) -> Any:
        """One pass over a prompt."""
        model, vectors = self.model, self.vectors
        with torch.no_grad(), model.trace({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            for layer, vector in enumerate(vectors):
                model.steer(layers=layer, steering_vector=vector)
            found = model.logits.save()
        return found

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        model, vectors = self.model, self.vectors
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with model.generate(inputs, max_new_tokens=tokens, do_sample=False) as tracer:
            for _ in tracer.iter[:tokens]:
                for layer, vector in enumerate(vectors):
                    model.steer(layers=layer, steering_vector=vector)
            found = tracer.result.save()
        return found


class Ablating(Steered):
    """What comes into a block and what both of its writers add."""

    def __init__(self, model: Any, direction: torch.Tensor) -> None:
        super().__init__(model)
        self.unit = direction / direction.norm()

    def logits(self, ids: Any) -> Any:
        """One pass over a prompt."""
        model, unit = self.model, self.unit
        with torch.no_grad(), model.trace({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
            for layer in range(model.num_layers):
                for place in (model.layers_input, model.attentions_output, model.mlps_output):
                    value = place[layer]
                    place[layer] = value - (value @ unit)[..., None] * unit
            found = model.logits.save()
        return found

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        model, unit = self.model, self.unit
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with model.generate(inputs, max_new_tokens=tokens, do_sample=False) as tracer:
            for _ in tracer.iter[:tokens]:
                for layer in range(model.num_layers):
                    for place in (model.layers_input, model.attentions_output, model.mlps_output):
                        value = place[layer]
                        place[layer] = value - (value @ unit)[..., None] * unit
            found = tracer.result.save()
        return found


class Driver:
    """nnterp loads the model and checks its renaming."""

    ABLATE_AT = ("resid_pre", "attn_out", "mlp_out")

    def __init__(self, folder: str, variant: str) -> None:
        self.model = import_module("nnterp").StandardizedTransformer(folder)
        self.model.tokenizer.padding_side = "left"  # which its activation collection asks for

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Its own function for it returns layers, prompts, dimensions."""
        collect = import_module("nnterp.nnsight_utils").collect_token_activations_batched
        found = [collect(self.model, list(texts), 32) for texts in (positive, negative)]
        return found[0].mean(1) - found[1].mean(1)

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """Nothing is attached beforehand."""
        yield Adding(self.model, vectors)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """Nothing is attached beforehand."""
        yield Ablating(self.model, direction)
