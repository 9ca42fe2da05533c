"""Layouts that are wrong in one thing, which the self-test must refuse on the model of the right one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from steerkit.api.architecture import Block, Layout
from steerkit.errors import counted
from steerkit.types import ATTN_OUT, MLP_OUT

Wrong: TypeAlias = tuple[str, Layout]
"""What is wrong in a layout, and that layout."""


def other_splits(layout: Layout) -> Iterator[Wrong]:
    """Heads that are half as wide or twice as wide, of the first block that has some and of the last."""
    for layer in _ends([layer for layer, block in enumerate(layout.blocks) if block.heads]):
        heads = layout.blocks[layer].heads
        assert heads is not None  # of such blocks alone
        if heads.d_head % 2 == 0:
            halves = replace(heads, n_heads=2 * heads.n_heads, d_head=heads.d_head // 2)
            yield (
                f"block {layer} with {counted(halves.n_heads, 'head')} for {heads.n_heads}",
                _with(layout, layer, heads=halves),
            )
        if heads.n_heads % 2 == 0:
            pairs = replace(heads, n_heads=heads.n_heads // 2, d_head=2 * heads.d_head)
            yield (
                f"block {layer} with {counted(pairs.n_heads, 'head')} for {heads.n_heads}",
                _with(layout, layer, heads=pairs),
            )


def swapped_writers(layout: Layout) -> Iterator[Wrong]:
    """The names of attention and MLP exchanged, of the first block that has both and of the last."""
    names = {ATTN_OUT: MLP_OUT, MLP_OUT: ATTN_OUT}
    both = [layer for layer, block in enumerate(layout.blocks) if names.keys() <= {one.stream for one in block.writers}]
    for layer in _ends(both):
        writers = tuple(replace(one, stream=names.get(one.stream, one.stream)) for one in layout.blocks[layer].writers)
        yield f"block {layer} with its writers swapped", _with(layout, layer, writers=writers)


def wrong_sums(layout: Layout) -> Iterator[Wrong]:
    """A writer that is left out, and one whose factor is 1 % off, of the last block that is a sum."""
    for layer in _ends([layer for layer, block in enumerate(layout.blocks) if block.writers])[-1:]:
        block: Block = layout.blocks[layer]
        *others, last = block.writers
        if others and not block.keeps:
            yield f"block {layer} without {last.stream}", _with(layout, layer, writers=tuple(others))
        off = replace(last, tap=replace(last.tap, factor=1.01 * last.tap.factor))
        yield f"block {layer} with {last.stream} 1 % off", _with(layout, layer, writers=(*others, off))


def _ends(layers: list[int]) -> list[int]:
    """The first and the last of some layers."""
    return sorted({layers[0], layers[-1]}) if layers else []


def _with(layout: Layout, layer: int, **fields: Any) -> Layout:
    blocks = list(layout.blocks)
    blocks[layer] = replace(blocks[layer], **fields)
    return replace(layout, blocks=tuple(blocks))
