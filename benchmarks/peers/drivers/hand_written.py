"""Hooks as a person writes them: what ``register_forward_hook`` alone costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from benchmarks.peers.definition import mean_difference_by_hand
from benchmarks.peers.harness import Steered, plain

PACKAGES = ["transformers"]
IMPORTS = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"
VARIANTS = [""]
HOW = {
    "extract": "forward hooks that keep last rows; sorted by length, padded on the right, no head",
    "add_all": "register_forward_hook on every block: x + v",
    "ablate": "a pre-hook on every block, hooks on self_attn and mlp: x - (x @ r)[..., None] * r",
}


class Driver:
    """Hand-written hooks."""

    ABLATE_AT = ("resid_pre", "attn_out", "mlp_out")

    def __init__(self, folder: str, variant: str) -> None:
        self.model, self.tokenizer = plain(folder)

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """The loop that every library is compared with."""
        return mean_difference_by_hand(self.tokenizer, self.model, positive, negative)

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """A hook at every block's output."""

        def adder(vector: torch.Tensor) -> Callable[[Any, Any, Any], Any]:
            return lambda module, args, out: (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

        with ExitStack() as hooks:
            for block, vector in zip(self.model.model.layers, vectors, strict=True):
                hooks.callback(block.register_forward_hook(adder(vector)).remove)
            yield Steered(self.model)

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """Three hooks a block, as in the code of Arditi et al., 2024: what comes in and what both writers add."""
        unit = direction / direction.norm()

        def remove(hidden: torch.Tensor) -> torch.Tensor:
            return hidden - (hidden @ unit)[..., None] * unit

        def before(module: Any, args: Any) -> Any:
            return (remove(args[0]), *args[1:])

        def after(module: Any, args: Any, out: Any) -> Any:
            return (remove(out[0]), *out[1:]) if isinstance(out, tuple) else remove(out)

        with ExitStack() as hooks:
            for block in self.model.model.layers:
                hooks.callback(block.register_forward_pre_hook(before).remove)
                hooks.callback(block.self_attn.register_forward_hook(after).remove)
                hooks.callback(block.mlp.register_forward_hook(after).remove)
            yield Steered(self.model)
