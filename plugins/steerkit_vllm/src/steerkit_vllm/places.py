"""Which of vLLM's modules hold which site, told by how their layers are made.

In vLLM's decoder layers the stream is a pair: what the last writer contributed, and the sum of what came before. Layers
take ``(positions, contribution, rest)`` and give the next pair; the norm in front of a writer adds the two up. So

* ``embed`` is what goes into the first layer, whose rest is None;
* ``attn_out`` and ``mlp_out`` are what comes out of a writer, or of the norm behind it (Gemma 2 and 3);
* ``resid_mid`` is what goes into the norm between the writers: the pair's sum is read, its first part is changed;
* ``resid_post`` is the pair that comes out of a layer, in the same way.

It reads no weights and no tensor, and imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from steerkit.errors import UnsupportedModelError, listed
from steerkit.types import ATTN_OUT, EMBED, MLP_OUT, RESID_MID, RESID_POST, Site

if TYPE_CHECKING:
    from torch import nn

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Names:
    """What the parts of a layer are called.

    Args:
        attn_out: the module whose output the first writer contributes.
        resid_mid: the norm that adds the pair up between the writers.
        mlp_out: the module whose output the second writer contributes.
    """

    attn_out: str
    resid_mid: str
    mlp_out: str


_PLAIN: Final = Names("self_attn", "post_attention_layernorm", "mlp")
_POST_NORMED: Final = Names("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
FAMILIES: Final[Mapping[str, Names]] = {
    "LlamaDecoderLayer": _PLAIN,
    "Qwen2DecoderLayer": _PLAIN,
    "Qwen3DecoderLayer": _PLAIN,
    "GemmaDecoderLayer": _PLAIN,
    "Gemma2DecoderLayer": _POST_NORMED,
    "Gemma3DecoderLayer": _POST_NORMED,
}
"""By the class of a layer: those whose forward pass was read, and whose logits were compared."""


@dataclass(frozen=True)
class Spot:
    """Where a site is edited.

    Args:
        site: the site.
        module: path below the model.
        side: what goes in, or what comes out.
        kind: ``layer`` for a layer's own pair, ``writer`` for one value, ``norm`` for a pair given to a norm.
    """

    site: Site
    module: str
    side: Side
    kind: Literal["layer", "writer", "norm"]


def spots_of(model: nn.Module, streams: tuple[str, ...]) -> tuple[Spot, ...]:
    """Where the sites of some streams are, in forward order.

    Raises:
        UnsupportedModelError: for a model whose layers aren't known.
    """
    path, layers = _layers(model)
    found: list[Spot] = []
    for number, layer in enumerate(layers):
        name = type(layer).__name__
        names = FAMILIES[name]
        here = f"{path}.{number}"
        if number == 0:
            found.append(Spot(Site(EMBED), here, "input", "layer"))
        found += [
            Spot(Site(ATTN_OUT, number), f"{here}.{names.attn_out}", "output", "writer"),
            Spot(Site(RESID_MID, number), f"{here}.{names.resid_mid}", "input", "norm"),
            Spot(Site(MLP_OUT, number), f"{here}.{names.mlp_out}", "output", "writer"),
            Spot(Site(RESID_POST, number), here, "output", "layer"),
        ]
    return tuple(spot for spot in found if spot.site.stream in streams)


def _layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The path of the layers, and the layers."""
    lists = [(name, list(one.children())) for name, one in model.named_modules() if type(one).__name__ == "ModuleList"]
    known = [(name, layers) for name, layers in lists if layers and all(_is_known(layer) for layer in layers)]
    if len(known) != 1:
        classes = sorted({type(layer).__name__ for _, layers in lists for layer in layers})
        raise UnsupportedModelError(
            f"{type(model).__name__} can't be steered on this engine: its layers are {listed(classes) or 'not found'}, "
            f"and {listed(tuple(FAMILIES))} are known. Bake the condition into a checkpoint (steerkit bake) and serve "
            "that."
        )
    return known[0]


def _is_known(layer: nn.Module) -> bool:
    return type(layer).__name__ in FAMILIES


def sites_of(spots: tuple[Spot, ...]) -> Iterator[Site]:
    """The sites that they are of."""
    return (spot.site for spot in spots)
