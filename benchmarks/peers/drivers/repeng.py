"""repeng: ``ControlModel`` and ``set_control``, as its README and notebooks show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from io import StringIO
from typing import Any

import torch

from benchmarks.peers.harness import Steered, plain

PACKAGES = ["repeng"]
IMPORTS = "from repeng import ControlVector, ControlModel, DatasetEntry; from transformers import AutoModelForCausalLM"
VARIANTS = [""]
# It reads ``hidden_states[layer + 1]``, and the last of those has been through the final norm.
EXTRACT_LAYERS = range(29)
HOW = {
    "extract": "repeng.extract.batched_get_hiddens, which ControlVector.train reads with (its estimators are PCA and "
    "UMAP; the mean is taken here)",
    "add_all": "ControlModel(model, layers).set_control(ControlVector(...), 1.0)",
    "ablate": "set_raw_control(..., operator=...), a function of its own, at block outputs: it has no other place",
}


class Whole(Steered):
    """Its mask has the shape of ``position_ids``, so those need a row for every row of the batch."""

    def logits(self, ids: Any) -> Any:
        """One pass over a prompt."""
        with torch.no_grad():
            positions = torch.arange(ids.shape[1]).expand(ids.shape)
            return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits


class Driver:
    """repeng around a transformers model, of which it replaces the blocks."""

    ABLATE_AT = ("resid_post",)

    def __init__(self, folder: str, variant: str) -> None:
        self.library = import_module("repeng")
        model, self.tokenizer = plain(folder)
        self.layers = list(range(model.config.num_hidden_layers))
        self.type = model.config.model_type
        self.model = self.library.ControlModel(model, self.layers)

    def extract(self, positive: Sequence[str], negative: Sequence[str]) -> torch.Tensor:
        """Batches of 32, its default."""
        read = import_module("repeng.extract").batched_get_hiddens
        with redirect_stderr(StringIO()):  # a progress bar
            found = [
                read(self.model, self.tokenizer, list(texts), list(EXTRACT_LAYERS), 32)
                for texts in (positive, negative)
            ]
        means = [[torch.from_numpy(rows[layer]).mean(0) for layer in EXTRACT_LAYERS] for rows in found]
        return torch.stack(means[0]) - torch.stack(means[1])

    @contextmanager
    def add_all(self, vectors: torch.Tensor) -> Iterator[Steered]:
        """Vectors are arrays of numpy in repeng."""
        directions = {layer: vectors[layer].numpy() for layer in self.layers}
        self.model.set_control(self.library.ControlVector(model_type=self.type, directions=directions), 1.0)
        yield Whole(self.model)
        self.model.reset()

    @contextmanager
    def ablate(self, direction: torch.Tensor) -> Iterator[Steered]:
        """The operator is its documented way of combining output and vector otherwise than by adding."""
        unit = direction / direction.norm()

        def remove(current: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
            return current - (current * control).sum(-1, keepdim=True) * control

        self.model.set_raw_control(dict.fromkeys(self.layers, unit), operator=remove)
        yield Whole(self.model)
        self.model.reset()
