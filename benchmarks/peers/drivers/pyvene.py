"""pyvene: ``IntervenableModel`` with constant sources, as its tutorials steer and collect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers.harness import Steered, plain

PACKAGES = ["pyvene"]
IMPORTS = "import pyvene; from transformers import AutoModelForCausalLM, AutoTokenizer"
VARIANTS = [""]
HOW = {
    "extract": "IntervenableModel of CollectInterventions at every block_output, unit_locations the last token, "
    "batches of 32",
    "add_all": "IntervenableModel of AdditionInterventions with source_representation at every block_output; "
    "generate(..., unit_locations=None, intervene_on_prompt=True), which is every token",
    "ablate": "the same with an own SourcelessIntervention at block_input, attention_output and mlp_output",
}


class Intervenable(Steered):
    """It takes a dictionary of inputs and returns pairs."""

    def logits(self, ids: Any) -> Any:
        """One pass over a prompt."""
        base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            return self.model(base)[1].logits

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            return self.model.generate(base, intervene_on_prompt=True, max_new_tokens=tokens, do_sample=False)[1]


class Driver:
    """pyvene around a transformers model."""

    ABLATE_AT = ("resid_pre", "attn_out", "mlp_out")

    def __init__(self, folder: str, variant: str) -> None:
        self.library = import_module("pyvene")
        self.model, self.tokenizer = plain(folder)
        self.tokenizer.padding_side = "left"
        self.layers = range(self.model.config.num_hidden_layers)
        collect = [self._at(layer, "block_output", self.library.CollectIntervention) for layer in self.layers]
        self.collector = self.library.IntervenableModel(collect, model=self.model)

    def _at(self, layer: int, component: str, kind: Any, **more: Any) -> dict[str, Any]:
        return {"layer": layer, "component": component, "intervention_type": kind, **more}

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Last tokens, which left padding brings to the last column."""
        return self._mean(positive) - self._mean(negative)

    def _mean(self, texts: Sequence[str]) -> torch.Tensor:
        kept: list[list[torch.Tensor]] = [[] for _ in self.layers]
        for start in range(0, len(texts), 32):
            batch = self.tokenizer(list(texts[start : start + 32]), padding=True, return_tensors="pt")
            base = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                (_, found), _ = self.collector(base, unit_locations={"base": base["input_ids"].shape[1] - 1})
            for rows, collected in zip(kept, found, strict=True):
                rows.append(collected[:, 0])
        return torch.stack([torch.cat(rows).mean(0) for rows in kept])

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """Hooks are set and removed by every call."""
        kind = self.library.AdditionIntervention
        config = [self._at(layer, "block_output", kind, source_representation=vectors[layer]) for layer in self.layers]
        yield Intervenable(self.library.IntervenableModel(config, model=self.model))

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """A new type of intervention is a subclass, says its introduction."""
        unit = direction / direction.norm()

        class Ablation(self.library.SourcelessIntervention):  # type: ignore[name-defined, misc]
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs, keep_last_dim=True)  # or it is handed positions and dimensions as one axis

            def forward(self, base: Any, source: Any = None, subspaces: Any = None, **kwargs: Any) -> Any:
                return base - (base @ unit)[..., None] * unit

        components = ("block_input", "attention_output", "mlp_output")
        config = [self._at(layer, component, Ablation) for layer in self.layers for component in components]
        yield Intervenable(self.library.IntervenableModel(config, model=self.model))
