"""steerkit: ``steer`` with ``add`` and ``ablate``, folded into the weights or as hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.peers.harness import Steered

PACKAGES = ["steerkit-torch"]
# With transformers' loader, which it would import with the first model: being lazy is no merit here.
IMPORTS = (
    "from steerkit import ablate, add, load_model; import steerkit.engine.runtime.live; "
    "from transformers import AutoModelForCausalLM, AutoTokenizer"
)
VARIANTS = ["fold", "hook"]
# Reading is one and the same in both modes.
ONLY = {"hook": ("add_all", "ablate")}
HOW = {
    "extract": "model.capture(texts, sites): means at every resid_post at the last token",
    "add_all": "with model.steer(*[add(direction) for every layer], mode='fold' or 'hook'): model.hf_model.generate",
    "ablate": "with model.steer(ablate(direction), mode='fold' or 'hook'): its own places, embedding and every writer",
}


class Driver:
    """steerkit's own loader, which tests the model's sites."""

    ABLATE_AT = ("embed", "attn_out", "mlp_out")

    def __init__(self, folder: str, variant: str) -> None:
        import steerkit

        self.library, self.mode = steerkit, variant
        self.live = steerkit.load_model(folder, device="cpu", dtype="float32", chat_template="none")

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Sums are kept in float64."""
        sites = self.live.layout.sites_of("resid_post")
        found = [self.live.capture(list(texts), sites, progress=False).values() for texts in (positive, negative)]
        means = [torch.stack([one.mean for one in values]) for values in found]
        return means[0] - means[1]

    def _direction(self, vector: torch.Tensor, layer: int) -> object:
        return self.library.Direction(vector[None], self.library.Site("resid_post", layer))

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """One intervention per layer, each at its direction's own site."""
        added = [self.library.add(self._direction(vector, layer)) for layer, vector in enumerate(vectors)]
        with self.live.steer(*added, mode=self.mode):
            yield Steered(self.live.hf_model)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """One intervention."""
        with self.live.steer(self.library.ablate(self._direction(direction, 0)), mode=self.mode):
            yield Steered(self.live.hf_model)
