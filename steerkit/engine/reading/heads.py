"""What each attention head writes along a direction, and what it attends to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from steerkit.engine.lowering.foldable import weight_of
from steerkit.engine.parallel.shards import sharded_input, share_of, whole
from steerkit.engine.prompts.batches import forward_arguments
from steerkit.engine.reading.last import Taker, require_finite
from steerkit.engine.sites.evaluating import evaluating
from steerkit.engine.sites.taps import submodule
from steerkit.errors import DataError
from steerkit.types import ATTN_OUT, HEAD_OUT, Site

if TYPE_CHECKING:
    from steerkit.api.architecture import Block
    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.runtime.runtime import Runtime

_PROBED: Final = 1e3
"""So large that a norm's epsilon doesn't count."""
_TOLERANCE: Final[Mapping[torch.dtype, float]] = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far what is added may lie from what the norm is taken to make of it, as a share; 1e-3 in wider dtypes."""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """How the heads of a layer reach the stream.

    Args:
        layer: which.
        projection: their output projection.
        heads: how many.
        gain: of the RMS norm that the projection's output passes before it is added, ``[d_model]``, float64; None
            where none follows.
        factor: what the projection's output is multiplied by before it is added.
    """

    layer: int
    projection: nn.Module
    heads: int
    gain: Tensor | None = None
    factor: float = 1.0

    @property
    def weight(self) -> Tensor:
        """Of the projection, ``[d_model, heads * d_head]`` however its module stores it, in every process that has a
        share of it."""
        return whole(weight_of(self.projection).detach())

    @property
    def bias(self) -> Tensor | None:
        """Of the projection, ``[d_model]``, or None."""
        bias = cast("Tensor | None", getattr(self.projection, "bias", None))
        return None if bias is None else whole(bias.detach())


def head_maps(live: Runtime) -> tuple[dict[int, HeadMap], dict[int, str]]:
    """How heads reach the stream by layer, and of the other layers why nothing can be told of theirs."""
    found: dict[int, HeadMap] = {}
    refused: dict[int, str] = {}
    for layer, block in enumerate(live.layout.blocks):
        try:
            found[layer] = _head_map(live, layer, block)
        except DataError as error:
            refused[layer] = str(error)
    return found, refused


@torch.no_grad()
def _head_map(live: Runtime, layer: int, block: Block) -> HeadMap:
    if block.heads is None:
        raise DataError("its token mixer has no heads")
    writer = next((one for one in block.writers if one.stream == ATTN_OUT), None)
    projection = submodule(live.model, block.heads.tap.module)
    width = block.heads.n_heads * block.heads.d_head
    stored = getattr(projection, "weight", None)
    if writer is None or block.heads.tap.side != "input" or not isinstance(stored, Tensor):
        raise DataError("its heads go into something else than one output projection")
    weight = weight_of(projection)
    if not weight.is_floating_point() or weight.is_meta or tuple(weight.shape) != (live.layout.d_model, width):
        raise DataError("the weight of its output projection can't be read: it is quantised or offloaded")
    if writer.projections == (block.heads.tap.module,):
        return HeadMap(layer, projection, block.heads.n_heads, factor=writer.tap.factor)
    if writer.tap.side != "output" or writer.projections:
        raise DataError("what stands between its output projection and the stream isn't declared")
    gain = _gain(submodule(live.model, writer.tap.module), share_of(weight), weight.shape[0])
    return HeadMap(layer, projection, block.heads.n_heads, gain)


def _gain(norm: nn.Module, like: Tensor, width: int) -> Tensor:
    """The factor of an RMS norm on each entry.

    Raises:
        DataError: for a module that doesn't multiply each entry by one factor, over the root of the mean square.
    """
    signs = torch.ones(width)
    signs[1::3] = -1.0
    probes = torch.stack([torch.ones_like(signs), signs])[:, None] * _PROBED
    try:
        # Not through __call__, behind which hooks of whoever steers may stand.
        given = norm.forward(probes.to(like)).double()
    except (RuntimeError, TypeError, ValueError):
        raise DataError("what stands between its output projection and the stream is no norm") from None
    gain: Tensor = given[0, 0]
    signed = given[1, 0]
    if not torch.allclose(signed, gain * signs.to(gain), atol=1e-2 * float(gain.abs().max()) + 1e-12):
        raise DataError("the norm behind its output projection is none by the root of the mean square")
    return gain


class HeadReader:
    """Direct attribution of heads to a direction, read of last tokens: ``W_O^h z^h · r̂`` (arXiv 2406.11717).

    Behind a post-norm (Gemma 2 and later) it is what of the head's contribution is added: the norm's factor is that of
    the whole contribution of attention. So heads, and the bias of the projection, add up to what attention adds along
    the direction.

    Args:
        live: the model.
        maps: how heads reach the stream.
        unit: ``[d_model]``, of length 1, float64.
        prompts: how many there will be.
    """

    def __init__(self, live: Runtime, maps: Mapping[int, HeadMap], unit: Tensor, prompts: int) -> None:
        self._maps, self._unit, self._live = maps, unit, live
        self._seen: dict[int, Tensor] = {}
        self.shares = {
            layer: torch.full((prompts, one.heads), torch.nan, dtype=torch.float64) for layer, one in maps.items()
        }

    def takers(self) -> dict[Site, tuple[Taker, int]]:
        """Who is to be shown which sites; see ``steerkit.engine.reading.last.read_last_tokens``."""
        takers: dict[Site, tuple[Taker, int]] = {
            Site(HEAD_OUT, layer): (self._heads if one.gain is None else self._keep, layer)
            for layer, one in self._maps.items()
        }
        normed = (layer for layer, one in self._maps.items() if one.gain is not None)
        return takers | {Site(ATTN_OUT, layer): (self._behind_norm, layer) for layer in normed}

    def require_finite(self) -> None:
        """Raise ``DataError`` for activations that aren't numbers."""
        for values in self.shares.values():
            require_finite(values)

    def _heads(self, layer: int, order: Tensor, z: Tensor) -> None:
        self._take(layer, order, z, self._unit * self._maps[layer].factor)

    def _keep(self, layer: int, order: Tensor, z: Tensor) -> None:
        self._seen[layer] = z

    def _behind_norm(self, layer: int, order: Tensor, added: Tensor) -> None:
        one, z = self._maps[layer], self._seen.pop(layer)
        assert one.gain is not None
        before = z @ one.weight.double().to(z.device).T
        if one.bias is not None:
            before = before + one.bias.double().to(z.device)
        gained = before * one.gain.to(z.device)
        size = (gained * gained).sum(-1, keepdim=True).clamp(min=1e-300)
        factor = (gained * added.to(z.device)).sum(-1, keepdim=True) / size
        off = (added.to(z.device) - factor * gained).norm() / added.norm().clamp(min=1e-300)
        if float(off) > _TOLERANCE.get(one.weight.dtype, 1e-3):
            raise DataError(
                f"What attention adds in block {layer} is off by {float(off):.1e} from what its norm makes of the "
                "heads. Set heads: 0."
            )
        self._take(layer, order, z * factor.to(z.device), self._unit.to(one.gain) * one.gain)

    def _take(self, layer: int, order: Tensor, z: Tensor, along: Tensor) -> None:
        one = self._maps[layer]
        read = (along.to(one.weight.device) @ one.weight.double()).to(z.device)
        self.shares[layer][order] = (z * read).unflatten(-1, (one.heads, -1)).sum(-1).cpu()


def attention_to(
    live: Runtime,
    rendered: Sequence[Rendered],
    spans: Sequence[Sequence[tuple[int, int]]],
    heads: Sequence[tuple[int, int]],
) -> Tensor | None:
    """How much of a head's attention goes from the last token to spans of tokens.

    Read of transformers' own eager attention, one prompt at a time without padding; while that is on, passes of other
    threads use it too, and give the same up to rounding.

    Args:
        live: the model.
        rendered: prompts.
        spans: of each prompt the spans ``[start, stop)``, as many for each.
        heads: ``(layer, head)`` each.

    Returns:
        ``[prompts, heads, spans]``, sums of attention weights, float64; None where the model gives none.
    """
    layers = sorted({layer for layer, _ in heads})
    found = torch.zeros(len(rendered), len(heads), len(spans[0]) if spans else 0, dtype=torch.float64)
    paths = {layer: _mixer(live, layer) for layer in layers}
    if any(path is None for path in paths.values()):
        return None
    base = submodule(live.model, live.layout.base)
    for place, prompt in enumerate(rendered):
        (batch,) = live.batched([prompt], "right")
        seen: dict[int, Tensor] = {}
        with live.running(batch), evaluating(live.model), _eager(live.model), _weights(live, paths, seen):
            base(**forward_arguments(batch, live.takes_positions))
        if any(layer not in seen or len(seen[layer]) != _n_heads(live, layer) for layer in layers):
            return None
        for at, (layer, head) in enumerate(heads):
            for number, (start, stop) in enumerate(spans[place]):
                found[place, at, number] = seen[layer][head, start:stop].sum()
    return found


def _n_heads(live: Runtime, layer: int) -> int:
    heads = live.layout.blocks[layer].heads
    return 0 if heads is None else heads.n_heads


def _mixer(live: Runtime, layer: int) -> str | None:
    """The path of a layer's attention: what holds its output projection."""
    heads = live.layout.blocks[layer].heads
    return None if heads is None else heads.tap.module.rpartition(".")[0] or None


@contextmanager
def _weights(live: Runtime, paths: Mapping[int, str | None], seen: dict[int, Tensor]) -> Iterator[None]:
    """Keep the attention weights of the last token that modules give, ``[heads, tokens]``."""
    model = live.model

    def hook(layer: int) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if isinstance(weights, Tensor) and weights.ndim == 4:
                kept = weights[0, :, -1].detach()
                heads = live.layout.blocks[layer].heads
                parts = None if heads is None else sharded_input(submodule(model, heads.tap.module))
                seen[layer] = (kept if parts is None else parts.side_by_side(kept, 0)).double().cpu()

        return keep

    handles = [
        submodule(model, path).register_forward_hook(hook(layer)) for layer, path in paths.items() if path is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Run the body with transformers' eager attention, which gives its weights; every config is put back."""
    held: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in held if hasattr(config, "_attn_implementation_internal")}
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, own in before:
            config._attn_implementation_internal = own
