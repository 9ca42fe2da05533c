"""nnsight: ``trace`` and ``generate`` with the edit written inside, as its guide to steering shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers.harness import Steered

PACKAGES = ["nnsight"]
IMPORTS = "import torch; from nnsight import TransformersModel"
VARIANTS = [""]
HOW = {
    "extract": "model.trace(batch of 32): .output[:, -1] of every block, saved",
    "add_all": "model.trace / model.generate: .output += v for every block, at every step of tracer.iter",
    "ablate": "the same with x - (x @ r)[..., None] * r at .input of every block, .output of self_attn and mlp",
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
            for layer, vector in zip(model.model.layers, vectors, strict=True):
                layer.output[:] += vector
            found = model.output.logits.save()
        return found

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        model, vectors = self.model, self.vectors
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with model.generate(inputs, max_new_tokens=tokens, do_sample=False) as tracer:
            for _ in tracer.iter[:tokens]:
                for layer, vector in zip(model.model.layers, vectors, strict=True):
                    layer.output[:] += vector
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
            for layer in model.model.layers:
                layer.input = layer.input - (layer.input @ unit)[..., None] * unit
                written = layer.self_attn.output[0]
                written -= (written @ unit)[..., None] * unit
                written = layer.mlp.output
                written -= (written @ unit)[..., None] * unit
            found = model.output.logits.save()
        return found

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        model, unit = self.model, self.unit
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with model.generate(inputs, max_new_tokens=tokens, do_sample=False) as tracer:
            for _ in tracer.iter[:tokens]:
                for layer in model.model.layers:
                    layer.input = layer.input - (layer.input @ unit)[..., None] * unit
                    written = layer.self_attn.output[0]
                    written -= (written @ unit)[..., None] * unit
                    written = layer.mlp.output
                    written -= (written @ unit)[..., None] * unit
            found = tracer.result.save()
        return found


class Driver:
    """nnsight's own wrapper loads the model."""

    ABLATE_AT = ("resid_pre", "attn_out", "mlp_out")

    def __init__(self, folder: str, variant: str) -> None:
        self.model = import_module("nnsight").TransformersModel(folder, task="text-generation", dispatch=True)
        self.model.tokenizer.padding_side = "left"

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Batches of 32, padded on the left."""
        return self._mean(positive) - self._mean(negative)

    def _mean(self, texts: Sequence[str]) -> torch.Tensor:
        model: Any = self.model
        kept = []
        for start in range(0, len(texts), 32):
            part = list(texts[start : start + 32])
            with torch.no_grad(), model.trace(part):
                found = torch.stack([layer.output[:, -1] for layer in model.model.layers]).save()
            kept.append(found)
        return torch.cat(kept, 1).mean(1)

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """Nothing is attached beforehand."""
        yield Adding(self.model, vectors)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """Nothing is attached beforehand."""
        yield Ablating(self.model, direction)
