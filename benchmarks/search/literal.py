"""The protocol of Arditi et al. 2024 (arXiv 2406.11717), written out literally over a transformers model.

Three sweeps over positions × layers, whole forward passes, full logits, one candidate at a time, prompts padded on the
left in batches of 32, hooks at every block's input, every attention and every MLP output. Nothing is shared and nothing
left out: this is the slow twin that a search is compared with. It uses nothing of steerkit's engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 32
EPSILON = 1e-8
KL_EPSILON = 1e-6


@dataclass(frozen=True)
class Cell:
    """The three scores of a candidate."""

    position: int
    layer: int
    refusal_score: float
    steering_score: float
    kl_div_score: float


class Literal:
    """A model of Llama's layout and its tokenizer.

    Args:
        model: the model.
        tokenizer: with a chat template.
        refusal_tokens: first tokens of refusals.
    """

    def __init__(self, model: Any, tokenizer: Any, refusal_tokens: Sequence[int]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.refusal_tokens = list(refusal_tokens)
        self.blocks: list[nn.Module] = list(model.model.layers)

    def batches(self, prompts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids and mask ``[32, pos]``, padded on the left."""
        for start in range(0, len(prompts), BATCH):
            rows = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
                )
                for text in prompts[start : start + BATCH]
            ]
            width = max(map(len, rows))
            ids = torch.tensor([[self.tokenizer.eos_token_id] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            yield ids, mask

    # Extraction

    @torch.no_grad()
    def mean_activations(self, prompts: Sequence[str], positions: Sequence[int]) -> Tensor:
        """Mean of every block's input at every position, ``[positions, layers, d_model]`` in float64."""
        total = torch.zeros(len(positions), len(self.blocks), self.model.config.hidden_size, dtype=torch.float64)

        def reader(layer: int) -> Any:
            def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                stream = args[0] if args else kwargs["hidden_states"]
                total[:, layer] += stream[:, list(positions)].double().sum(0) / len(prompts)

            return read

        with ExitStack() as stack:
            for layer, block in enumerate(self.blocks):
                stack.callback(block.register_forward_pre_hook(reader(layer), with_kwargs=True).remove)
            for ids, mask in self.batches(prompts):
                self.model(input_ids=ids, attention_mask=mask)
        return total

    # Interventions

    @contextmanager
    def ablated(self, direction: Tensor) -> Iterator[None]:
        """Directional ablation at every block's input and every attention and MLP output."""
        unit = direction / (direction.norm() + EPSILON)

        def project(value: Tensor) -> Tensor:
            return value - (value @ unit)[..., None] * unit

        with ExitStack() as stack:
            for block in self.blocks:
                stack.callback(block.register_forward_pre_hook(_on_input(project), with_kwargs=True).remove)
                for part in (block.self_attn, block.mlp):
                    stack.callback(part.register_forward_hook(_on_output(project)).remove)
            yield

    @contextmanager
    def added(self, direction: Tensor, layer: int) -> Iterator[None]:
        """Activation addition at one block's input."""
        hook = _on_input(lambda value: value + direction)
        handle = self.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    # Scores

    @torch.no_grad()
    def last_logits(self, prompts: Sequence[str]) -> Tensor:
        """Logits at the last position, ``[n, vocab]`` in float64, of whole passes with all logits."""
        found = [self.model(input_ids=ids, attention_mask=mask).logits[:, -1] for ids, mask in self.batches(prompts)]
        return torch.cat(found).double()

    def refusal_score(self, logits: Tensor) -> float:
        """Mean log-odds that the next token opens a refusal."""
        p = logits.softmax(-1)
        refusal = p[:, self.refusal_tokens].sum(-1)
        return float((torch.log(refusal + EPSILON) - torch.log(1 - refusal + EPSILON)).mean())

    def sweep(
        self,
        directions: Mapping[tuple[int, int], Tensor],
        harmful: Sequence[str],
        harmless: Sequence[str],
    ) -> list[Cell]:
        """Three sweeps over all candidates, ``{(position, layer): direction}``."""
        kl, bypass, induce = {}, {}, {}
        p = self.last_logits(harmless).softmax(-1)
        for place, direction in directions.items():
            with self.ablated(direction):
                q = self.last_logits(harmless).softmax(-1)
            kl[place] = float((p * (torch.log(p + KL_EPSILON) - torch.log(q + KL_EPSILON))).sum(-1).mean())
        for place, direction in directions.items():
            with self.ablated(direction):
                bypass[place] = self.refusal_score(self.last_logits(harmful))
        for place, direction in directions.items():
            with self.added(direction, place[1]):
                induce[place] = self.refusal_score(self.last_logits(harmless))
        return [Cell(*place, bypass[place], induce[place], kl[place]) for place in directions]


def _on_input(change: Any) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def _on_output(change: Any) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook
