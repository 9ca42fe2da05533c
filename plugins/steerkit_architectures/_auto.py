"""Auto: the layout of any decoder, read off one recorded pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from steerkit.api.architecture import ArchitectureAdapter, Block, Layout
from steerkit_architectures._discovery.finding import find_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEADS = frozenset({"head_out", "heads_apart"})
_FOLDS = frozenset({"projections", "weighed"})
_OPTIONAL = {
    "head_out": "heads",
    "heads_apart": "heads",
    "resid_mid": "resid_mid",
    "projections": "the folding of writers",
    "weighed": "the folding of writers",
    "embed_weight": "the folding of the embedding",
}
"""Checks of the self-test that test what a layout need not have, and what that is in words."""


class AutoAdapter(ArchitectureAdapter):
    """Reads the layout off the computation. It proposes; the self-test decides."""

    remembered: ClassVar[bool] = True

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams, as they were seen in a pass over text."""
        return find_layout(model)

    def without(self, layout: Layout, failed: frozenset[str]) -> Layout | None:
        """The layout without what is optional and failed; None where anything else failed, or nothing is left out."""
        if not failed or not failed <= set(_OPTIONAL):
            return None
        smaller = replace(layout, blocks=tuple(_smaller_block(block, failed) for block in layout.blocks))
        if "embed_weight" in failed:
            smaller = replace(smaller, embed_weight="", embed_beside=())
        if smaller == layout:
            return None
        parts = ", ".join(dict.fromkeys(words for name, words in _OPTIONAL.items() if name in failed))
        note = f"Left out, since the self-test of what was found failed there: {parts}."
        return replace(smaller, notes=(*smaller.notes, note))


def _smaller_block(block: Block, failed: frozenset[str]) -> Block:
    if failed & _HEADS:
        block = replace(block, heads=None)
    if "resid_mid" in failed:
        block = replace(block, resid_mid=None)
    if failed & _FOLDS:
        why = "what its projections give doesn't sum to it"
        writers = (
            replace(one, projections=(), weighed=(), weighed_rows=(), not_foldable=one.not_foldable or why)
            for one in block.writers
        )
        block = replace(block, writers=tuple(writers))
    return block
