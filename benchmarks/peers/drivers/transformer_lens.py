"""TransformerLens: ``TransformerBridge`` with named hooks, which its README recommends over everything older."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers.harness import Steered

PACKAGES = ["transformer-lens"]
IMPORTS = "import torch; from transformer_lens.model_bridge import TransformerBridge"
VARIANTS = [""]
HOW = {
    "extract": "bridge.run_with_cache(texts, names_filter=hook_resid_post of all layers), batches of 32, padded left",
    "add_all": "with bridge.hooks(fwd_hooks=[(f'blocks.{i}.hook_resid_post', hook), ...]); bridge.generate",
    "ablate": "the same at hook_resid_pre, hook_resid_mid and hook_resid_post, as the demo of Arditi et al. does",
}


class Bridge(Steered):
    """It has a decoding loop of its own."""

    def logits(self, ids: Any) -> Any:
        """One pass over a prompt."""
        with torch.no_grad():
            return self.model(ids, return_type="logits")

    def generate(self, ids: Any, tokens: int) -> Any:
        """Greedily."""
        return self.model.generate(
            ids, max_new_tokens=tokens, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )


class Driver:
    """A bridge around the transformers model."""

    # Its hook_resid_mid changes what the MLP's norm reads, not the stream that passes it by; hook_resid_post behind it
    # removes the rest, so for an ablation the result is that of the definition.
    ABLATE_AT = ("resid_pre", "resid_mid", "resid_post")

    def __init__(self, folder: str, variant: str) -> None:
        library = import_module("transformer_lens.model_bridge")
        self.bridge = library.TransformerBridge.boot_transformers(folder, device="cpu")
        self.layers = range(self.bridge.cfg.n_layers)

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Only the streams that are wanted are cached."""
        return self._mean(positive) - self._mean(negative)

    def _mean(self, texts: Sequence[str]) -> torch.Tensor:
        names = [f"blocks.{layer}.hook_resid_post" for layer in self.layers]
        kept = []
        for start in range(0, len(texts), 32):
            part = list(texts[start : start + 32])
            with torch.no_grad():
                _, cache = self.bridge.run_with_cache(
                    part, names_filter=names, prepend_bos=False, padding_side="left", return_type="logits"
                )
            kept.append(torch.stack([cache[name][:, -1] for name in names]))
        return torch.cat(kept, 1).mean(1)

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """A hook at every block's output."""

        def adder(vector: torch.Tensor) -> Callable[..., torch.Tensor]:
            return lambda value, hook: value + vector

        hooks = [(f"blocks.{layer}.hook_resid_post", adder(vectors[layer])) for layer in self.layers]
        with self.bridge.hooks(fwd_hooks=hooks):
            yield Bridge(self.bridge)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """Three hooks a block."""
        unit = direction / direction.norm()

        def remove(value: torch.Tensor, hook: Any) -> torch.Tensor:
            return value - (value @ unit)[..., None] * unit

        streams = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
        hooks = [(f"blocks.{layer}.{stream}", remove) for layer in self.layers for stream in streams]
        with self.bridge.hooks(fwd_hooks=hooks):
            yield Bridge(self.bridge)
