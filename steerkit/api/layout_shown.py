"""A layout in a few lines: which streams its blocks have, and how its logits are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.showing import card, line, number, ranges, table
from steerkit.errors import counted
from steerkit.types import HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE

if TYPE_CHECKING:
    from steerkit.api.architecture import Block, Layout


def layout_in_words(layout: Layout) -> str:
    """Width and depth, the streams of the blocks (those alike together), and the way to the logits."""
    head = f"Layout: {counted(layout.n_layers, 'block')}, d_model {layout.d_model}, embed at {layout.embed.module}"
    blocks = [f"  blocks {layers}: {streams}" for layers, streams, _ in _alike(layout)]
    return "\n".join([head, *blocks, f"  {_end(layout)}", *(f"  {note}" for note in layout.notes)])


def layout_as_html(layout: Layout) -> str:
    """The same as a table."""
    rows = [["embed", "embed", layout.embed.module]]
    rows += [[f"blocks {layers}", streams, path] for layers, streams, path in _alike(layout)]
    title = f"Layout: {counted(layout.n_layers, 'block')}, d_model {layout.d_model}"
    return card(title, table(["", "streams", "module"], rows, plain=3), line(_end(layout)), *map(line, layout.notes))


def _alike(layout: Layout) -> list[tuple[str, str, str]]:
    """Blocks with the same streams: their numbers, the streams, and the module of the first."""
    found: dict[str, list[int]] = {}
    for layer, block in enumerate(layout.blocks):
        found.setdefault(", ".join(_streams(block)), []).append(layer)
    return [(ranges(layers), streams, layout.blocks[layers[0]].module) for streams, layers in found.items()]


def _streams(block: Block) -> list[str]:
    streams = [f"{RESID_PRE} (at {block.start.module})" if block.start else RESID_PRE]
    if block.heads is not None:
        streams.append(f"{HEAD_OUT} ({block.heads.n_heads} of width {block.heads.d_head})")
    for place, writer in enumerate(block.writers):
        kept, factor = block.keep(place), writer.tap.factor
        if kept != 1.0:
            streams.append(f"times {number(kept)}")
        streams.append(f"{writer.stream} (times {number(factor)})" if factor != 1.0 else writer.stream)
        if place == 0 and block.resid_mid is not None:
            streams.append(RESID_MID)
    last = block.keep(len(block.writers))
    scale = block.scale or (number(last) if last != 1.0 else "")
    whole = f"{RESID_POST} (times {scale})" if scale else RESID_POST
    return [*streams, f"{whole}; only the ends: {block.not_a_sum}" if block.not_a_sum else whole]


def _end(layout: Layout) -> str:
    parts = [f"logits: {', '.join(layout.behind)}"]
    if layout.logit_scale != 1.0:
        parts.append(f"times {number(layout.logit_scale)}")
    if layout.softcap is not None:
        parts.append(f"soft cap {number(layout.softcap)}")
    return ", ".join(parts)
