"""transformers alone: ``output_hidden_states`` reads; nothing steers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.peers.harness import NotOffered, Steered, plain

PACKAGES = ["transformers"]
IMPORTS = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"
VARIANTS = [""]
# The last of ``hidden_states`` has been through the final norm, so the last block's output isn't there.
EXTRACT_LAYERS = range(29)
HOW = {"extract": "model(**batch, output_hidden_states=True), batches of 32, padded on the left"}


class Driver:
    """Plain transformers."""

    ABLATE_AT = ("resid_post",)

    def __init__(self, folder: str, variant: str) -> None:
        self.model, self.tokenizer = plain(folder)
        self.tokenizer.padding_side = "left"

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """All hidden states of a batch, of which the last token is kept."""
        return self._mean(positive) - self._mean(negative)

    def _mean(self, texts: Sequence[str]) -> torch.Tensor:
        kept: list[list[torch.Tensor]] = [[] for _ in EXTRACT_LAYERS]
        for start in range(0, len(texts), 32):
            batch = self.tokenizer(list(texts[start : start + 32]), padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = self.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
                ).hidden_states
            for layer, rows in enumerate(kept):
                rows.append(hidden[layer + 1][:, -1])
        return torch.stack([torch.cat(rows).mean(0) for rows in kept])

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Any]:
        """Nothing."""
        raise NotOffered("transformers has no steering of its own")
        yield

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """Nothing."""
        raise NotOffered("transformers has no ablation of its own")
        yield
