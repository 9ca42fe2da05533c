"""Whether a model gives what it gives anyway when the common beginning of its prompts is computed once.

An adapter may rule it out (``Layout.shares_beginning``); else it is tried once per model, on fixed tokens, so that the
answer follows from the model alone and not from what it has read before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steerkit.engine.prompts.batches import PaddingSide, arguments_behind, forward_arguments, pad
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.runtime.caches import cache_for_rows, new_cache
from steerkit.engine.runtime.copies import with_nothing_on_model
from steerkit.engine.runtime.generation import GREEDY
from steerkit.engine.sites.evaluating import evaluating, uncompiled
from steerkit.engine.sites.taps import submodule

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.engine.prompts.batches import Batch
    from steerkit.engine.runtime.runtime import Runtime

_ALIKE: Final = {torch.float32: 1e-4, torch.float64: 1e-8}
_ALIKE_16_BIT: Final = 5e-2
_SIDES: Final[tuple[PaddingSide, ...]] = ("right", "left")
_BEGINNING, _BEHIND = 8, (5, 3, 1, 2)
"""Tokens of the beginning that is tried, and of what stands behind it in each row."""


@dataclass(frozen=True)
class Shareable:
    """What was found.

    Args:
        refused: why a common beginning is read with every prompt; empty where it is computed once.
    """

    refused: str = ""


_FOUND: WeakKeyDictionary[nn.Module, dict[bool, Shareable]] = WeakKeyDictionary()


def most_apart(dtype: torch.dtype) -> float:
    """How far what a shortcut gives may be from what a whole pass gives, as a share of its norm."""
    return _ALIKE.get(dtype, _ALIKE_16_BIT)


def shareable(live: Runtime, *, generating: bool = False) -> Shareable:
    """Whether a model shares beginnings: what its adapter says, else what it was found to do, tried once.

    Args:
        live: the model.
        generating: whether transformers' ``generate`` goes on behind them, which has ways of its own for each model.
    """
    if not live.layout.shares_beginning:
        return Shareable("its adapter says that its cache can't be shared")
    if no_cache := unshared(live):
        return Shareable(no_cache)
    found = _FOUND.setdefault(live.model, {})
    if generating not in found:
        with with_nothing_on_model(live.model), uncompiled(), evaluating(live.model):
            found[generating] = Shareable(_fault(live, _written if generating else _read))
    return found[generating]


def unshared(live: Runtime) -> str:
    """Why nothing that a model keeps of a beginning may be used, as the self-test found it; empty where that may be."""
    if not live.behaviours.causal:
        return "what follows a beginning changes it"
    return "" if live.behaviours.cached else "what it gives behind a cache isn't what a whole pass gives"


def longest_shareable(live: Runtime) -> int | None:
    """Up to how many columns a model computes a token in one way, however its passes are cut; None: any number.

    A layer that slides or works in chunks may forget what a whole pass still sees, and a rotation that is scaled by
    the length of a pass differs between a short pass and a long one: for those, 0.
    """
    config: Any = live.model.config.get_text_config()
    if _rope_types(config) & {"dynamic", "longrope"}:
        return 0
    limits = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((limit for limit in limits if isinstance(limit, int) and limit), default=None)


def _rope_types(config: Any) -> set[str]:
    """How the rotations of a model are scaled, in any of its layers."""
    found = set()
    for name in ("rope_parameters", "rope_scaling"):
        held = getattr(config, name, None)
        for one in (held, *held.values()) if isinstance(held, dict) else ():
            if isinstance(one, dict):
                found.add(str(one.get("rope_type", one.get("type", ""))))
    return found


def _fault(live: Runtime, compare: Callable[[Runtime, PaddingSide], tuple[Tensor, Tensor]]) -> str:
    """Why a shared beginning doesn't hold on some fixed tokens, unsteered; empty where it does."""
    try:
        far = max(_distance(*compare(live, side)) for side in _SIDES)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # of the machine at this moment, and not of the model: what is found is kept
    except Exception as error:  # whatever a model of somebody else's raises where it can't do it
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "" if far <= most_apart(live.model.dtype) else f"what it gives differs by {far:.1e} of its norm"


def _distance(shared: Tensor, whole: Tensor) -> float:
    """How far rows ``[n, width]`` are apart at most, as a share of their norms: one may be wrong by itself."""
    shared, whole = shared.double(), whole.double()
    return float(((shared - whole).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-9)).max())


def fixed_rows(live: Runtime) -> list[Rendered]:
    """Some rows of fixed tokens that begin alike, on which what a model does is tried."""
    most = min(live.n_embeddings, 997)
    beginning = tuple((11 + 13 * place) % most for place in range(_BEGINNING))
    return [
        Rendered((*beginning, *((5 + 29 * row + 7 * place) % most for place in range(length))))
        for row, length in enumerate(_BEHIND)
    ]


def _fixed(live: Runtime, side: PaddingSide) -> Batch:
    rows = fixed_rows(live)
    return pad(rows, tuple(range(len(rows))), side, live.pad_id, live.device)


def _cache_of_fixed(live: Runtime, batch: Batch) -> Cache:
    cache = new_cache()
    submodule(live.model, live.layout.base)(input_ids=batch.beginning, past_key_values=cache, use_cache=True)
    return cache_for_rows([cache], [0] * len(batch.order))


def _read(live: Runtime, side: PaddingSide) -> tuple[Tensor, Tensor]:
    """What tokens behind the beginning get from a shared pass and from a whole one."""
    batch, base = _fixed(live, side), submodule(live.model, live.layout.base)
    apart = batch.apart()
    whole = hidden_of(base(**forward_arguments(batch, live.takes_positions)))[:, batch.shared :]
    more = arguments_behind(apart, live.takes_positions)
    behind = hidden_of(base(**more, past_key_values=_cache_of_fixed(live, batch)))
    real = apart.attention_mask[:, batch.shared :].to(whole.device)
    return behind[real], whole[real]


def _written(live: Runtime, side: PaddingSide) -> tuple[Tensor, Tensor]:
    """The logits of the first two tokens that ``generate`` writes behind a shared beginning and behind whole rows."""
    batch = _fixed(live, "left")
    own = {"past_key_values": _cache_of_fixed(live, batch)}
    found = []
    for one, more in ((batch.apart(), own), (batch, {})):
        generate: Any = live.model.generate
        output = generate(
            input_ids=one.input_ids,
            attention_mask=one.attention_mask.long(),
            pad_token_id=live.pad_id,
            **{**GREEDY, "max_new_tokens": 2, "min_new_tokens": 2},
            return_dict_in_generate=True,
            output_logits=True,
            **more,
        )
        found.append(torch.cat(output.logits).float())
    return found[0], found[1]


def hidden_of(output: Any) -> Tensor:
    """What a base model gave for each token, ``[rows, pos, d_model]``."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return hidden
