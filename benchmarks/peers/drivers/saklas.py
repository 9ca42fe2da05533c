"""saklas: its steering runtime, below the language of expressions that its README shows.

An expression such as ``0.5 honest`` whitens the direction and shares a gain out over layers, and ``!honest`` replaces a
component by its mean; neither is ``x + v`` nor ``x - (x·r) r``. The runtime that expressions are lowered to can do
both, so it is what is measured. Extraction fits subspaces to answers that the model writes; it has no mean difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers.harness import NotOffered, Steered, plain

PACKAGES = ["saklas"]
IMPORTS = "from saklas import Profile, SaklasSession, Steering; from transformers import AutoModelForCausalLM"
VARIANTS = [""]
HOW = {
    "add_all": "SteeringManager.add_subspace(one affine subspace per layer, a push of v), apply_to_model(blocks)",
    "ablate": "the same with an ablation of r around mean 0; block outputs, the only place it has",
}


class Driver:
    """saklas's manager of hooks on a transformers model."""

    ABLATE_AT = ("resid_post",)

    def __init__(self, folder: str, variant: str) -> None:
        import_module("saklas")  # what a user imports; the runtime below comes from its submodules
        self.model, self.tokenizer = plain(folder)

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Not its method."""
        raise NotOffered("it fits whitened subspaces to answers that the model writes, no mean difference of prompts")

    @contextmanager
    def _attached(self, bases: torch.Tensor, targets: Sequence[float], kappa: float) -> Iterator[Steered]:
        manifold = import_module("saklas.core.manifold")
        zero = torch.zeros(bases.shape[1])
        layers: dict[int, Any] = {i: manifold.LayerSubspace.affine(zero, base[None]) for i, base in enumerate(bases)}
        manager = import_module("saklas.core.hooks").SteeringManager()
        synthesized = manifold.SynthesizedSubspace(
            layers=layers,
            target_coord={i: torch.tensor([target]) for i, target in enumerate(targets)},
            share=dict.fromkeys(layers, 1.0),
            kappa={i: torch.tensor([kappa]) for i in layers},
        )
        manager.add_subspace("peer", synthesized)
        manager.apply_to_model(self.model.model.layers, torch.device("cpu"), torch.float32)
        try:
            yield Steered(self.model)
        finally:
            manager.clear_all()

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """Equal shares, so that every layer's gain is the same and can be divided out."""
        gain = import_module("saklas.core.hooks")._SUBSPACE_GAIN
        norms = vectors.norm(dim=1)
        targets = (norms / gain).tolist()
        with self._attached(vectors / norms[:, None], targets, 0.0) as steered:
            yield steered

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """No push, a collapse of the whole component."""
        n_layers = len(self.model.model.layers)
        unit = (direction / direction.norm()).expand(n_layers, -1)
        with self._attached(unit, [0.0] * n_layers, 1.0) as steered:
            yield steered
