"""What the three jobs mean, written out with literal hooks on a Llama of transformers. Slow and plain on purpose.

Every library is held to these results before it is timed. Needs torch and transformers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

PLACES = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
EVERY_WRITER = ("embed", "attn_out", "mlp_out")

Edit = Callable[[int, Tensor], Tensor]


def first(value: Any) -> Tensor:
    """The hidden states of a module's output: transformers 4 wraps them in a tuple, 5 mostly doesn't."""
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def replaced(value: Any, hidden: Tensor) -> Any:
    """The module's output with other hidden states."""
    return (hidden, *value[1:]) if isinstance(value, tuple) else hidden


@contextmanager
def literal(model: Any, places: Sequence[str], edit: Edit) -> Iterator[None]:
    """Edit the residual stream at places: ``edit(layer, x)`` gives what stands there instead of ``x``.

    Args:
        model: a ``LlamaForCausalLM``.
        places: some of ``PLACES``; ``attn_out`` and ``mlp_out`` are what is added to the stream.
        edit: layer (-1 for the embedding) and ``[batch, pos, d_model]`` to the same shape.
    """
    unknown = sorted(set(places) - set(PLACES))
    if unknown:
        raise ValueError(f"Unknown places: {', '.join(unknown)}. There are {', '.join(PLACES)}.")
    with ExitStack() as hooks:
        if "embed" in places:
            embedding = model.get_input_embeddings()
            hooks.callback(embedding.register_forward_hook(lambda module, args, out: edit(-1, out)).remove)
        for layer, block in enumerate(model.model.layers):
            for handle in _block(block, layer, places, edit):
                hooks.callback(handle.remove)
        yield


def _block(block: Any, layer: int, places: Sequence[str], edit: Edit) -> list[Any]:
    kept: dict[str, Tensor] = {}

    def enter(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if "resid_pre" in places:
            hidden = edit(layer, hidden)
        kept["resid_pre"] = hidden
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def attention(module: Any, args: Any, out: Any) -> Any:
        hidden = first(out)
        if "attn_out" in places:
            hidden = edit(layer, hidden)
        if "resid_mid" in places:
            hidden = edit(layer, kept["resid_pre"] + hidden) - kept["resid_pre"]
        return replaced(out, hidden)

    def whole(name: str) -> Callable[[Any, Any, Any], Any]:
        return lambda module, args, out: replaced(out, edit(layer, first(out))) if name in places else out

    return [
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.self_attn.register_forward_hook(attention),
        block.mlp.register_forward_hook(whole("mlp_out")),
        block.register_forward_hook(whole("resid_post")),
    ]


def count(places: Sequence[str], n_layers: int) -> int:
    """How many places of a model that is."""
    return sum(1 if place == "embed" else n_layers for place in places)


def adding(vectors: Tensor) -> Edit:
    """``x + v_layer``; ``vectors`` is ``[layers, d_model]``."""
    return lambda layer, hidden: hidden + vectors[layer]


def ablating(direction: Tensor) -> Edit:
    """``x − (x·r) r`` with ``r`` the unit vector along ``direction``, ``[d_model]``."""
    unit = direction / direction.norm()
    return lambda layer, hidden: hidden - (hidden @ unit)[..., None] * unit


def mean_difference(model: Any, rows: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Tensor:
    """Mean over rows minus mean over the others of every block's output at the last token, one row at a time.

    Returns:
        ``[layers, d_model]`` in float64.
    """

    def mean(batch: Sequence[Sequence[int]]) -> Tensor:
        total = torch.zeros(len(model.model.layers), model.config.hidden_size, dtype=torch.float64)

        def read(layer: int, hidden: Tensor) -> Tensor:
            total[layer] += hidden[0, -1].double()
            return hidden

        with torch.no_grad(), literal(model, ["resid_post"], read):
            for row in batch:
                model(input_ids=torch.tensor([list(row)]))
        return total / len(batch)

    return mean(rows) - mean(other)


def mean_difference_by_hand(tokenizer: Any, model: Any, positive: Sequence[str], negative: Sequence[str]) -> Tensor:
    """The same, as fast as a careful person writes it: by length, padded on the right, no head, last rows only."""
    return _mean_by_hand(tokenizer, model, positive) - _mean_by_hand(tokenizer, model, negative)


def _mean_by_hand(tokenizer: Any, model: Any, texts: Sequence[str], budget: int = 4096) -> Tensor:
    rows = sorted(tokenizer(list(texts), add_special_tokens=False)["input_ids"], key=len, reverse=True)
    layers = model.model.layers
    total = torch.zeros(len(layers), model.config.hidden_size, dtype=torch.float64)
    picked: list[Tensor] = []

    def reader(layer: int) -> Callable[[Any, Any, Any], None]:
        def read(module: Any, args: Any, out: Any) -> None:
            total[layer] += first(out)[picked[0], picked[1]].double().sum(0)

        return read

    with ExitStack() as hooks, torch.no_grad():
        for layer, block in enumerate(layers):
            hooks.callback(block.register_forward_hook(reader(layer)).remove)
        start = 0
        while start < len(rows):
            width = len(rows[start])
            part = rows[start : start + max(1, budget // width)]
            start += len(part)
            picked[:] = [torch.arange(len(part)), torch.tensor([len(row) - 1 for row in part])]
            # Causal attention never looks at the padding behind a row, so there is no mask.
            model.model(input_ids=torch.tensor([row + [0] * (width - len(row)) for row in part]), use_cache=False)
    return total / len(rows)
