"""The whole layout of a live model, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.api.architecture import Block, Layout, Tap, Writer
from steerkit.errors import counted
from steerkit.types import ATTN_OUT
from steerkit_architectures._discovery.beginning import find_beginning
from steerkit_architectures._discovery.chain import Chain, Link, find_chain
from steerkit_architectures._discovery.ends import find_base, find_ending, has_norm
from steerkit_architectures._discovery.experts import Weighed, weighed
from steerkit_architectures._discovery.folding import NORM_FOLLOWS, projections
from steerkit_architectures._discovery.following import Course, follow
from steerkit_architectures._discovery.graph import Graph
from steerkit_architectures._discovery.heads import find_heads
from steerkit_architectures._discovery.mixing import seems_to_mix, which_mix
from steerkit_architectures._discovery.recording import as_it_is_used, ordinary_tokens, record
from steerkit_architectures._discovery.refusing import NotASum, Place
from steerkit_architectures._discovery.writers import Contribution, contributions, middle, names, tap_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Found:
    """What was found of one block: a sum, or why it is none."""

    link: Link
    course: Course | None = None
    parts: Sequence[Contribution] = ()
    start: Tap | None = None
    not_a_sum: NotASum | None = None


def find_layout(model: PreTrainedModel) -> Layout:
    """Read a model's layout off three short passes over random tokens.

    Raises:
        UnsupportedModelError: where it has none that ``Layout`` can say, with cause, operation, module and layer.
    """
    with as_it_is_used(model):
        ids = ordinary_tokens(model)
        graph = record(model, ids)
        chain = find_chain(model, graph)
        found = [_find_block(graph, link) for link in chain.links]
        mixing = _mixing(model, ids, graph, found)
    ending = find_ending(graph, chain.links[-1])
    *tail, head = [call.path for call in ending.behind]
    norm = tail.pop(0) if tail and has_norm(graph, ending.behind[0]) else ""
    beginning = find_beginning(graph, chain.links[0], found[0].start)
    return Layout(
        d_model=chain.links[0].into.shape[-1],
        base=find_base(graph, chain.links[0], ending.head).path,
        embed=beginning.embed,
        blocks=tuple(_block(model, graph, one, mixing) for one in found),
        final_norm=norm,
        between=tuple(tail),
        head=head,
        embed_is_first_resid_pre=beginning.is_first_resid_pre,
        embed_weight=beginning.weight,
        embed_beside=beginning.beside,
        softcap=ending.softcap,
        logit_scale=ending.scale,
        notes=tuple(_notes(chain, beginning.note)),
    )


def _find_block(graph: Graph, link: Link) -> _Found:
    try:
        course = follow(graph, link)
        start = tap_of(graph, course.start, link.call) if course.start is not None else None
        if course.start is not None and start is None:
            reason = f"in {link.call.path} the stream starts behind something that is no module's output"
            raise NotASum(reason, Place(course.start.op, link.call.path, link.layer))
        return _Found(link, course, contributions(graph, link, course), start)
    except NotASum as why:
        return _Found(link, not_a_sum=why)


def _mixing(model: PreTrainedModel, ids: Tensor, graph: Graph, found: Sequence[_Found]) -> Mapping[Tap, bool]:
    """Whether each contribution mixes tokens: measured, or judged by its operations where there are no numbers."""
    parts = [(one.link, one.course, part) for one in found if one.course is not None for part in one.parts]
    if ids.is_meta:
        return {part.tap: seems_to_mix(graph, link, course, part.value) for link, course, part in parts}
    if not parts:
        return {}
    streams = [Tap(one.link.call.path, "input") for one in found]
    return which_mix(model, ids, streams, [part.tap for *_, part in parts])


def _block(model: PreTrainedModel, graph: Graph, found: _Found, mixing: Mapping[Tap, bool]) -> Block:
    link, course, parts = found.link, found.course, found.parts
    if course is None:
        assert found.not_a_sum is not None  # one of both is there
        return Block(module=link.call.path, writers=(), not_a_sum=found.not_a_sum.reason)
    streams = names([part.tap for part in parts], [mixing[part.tap] for part in parts])
    writers, heads = [], None
    for part, stream in zip(parts, streams, strict=True):
        paths, why = projections(graph, link, part.value)
        made = Weighed(why=why)
        if not paths and why != NORM_FOLLOWS:
            made = weighed(model, graph, link, part.value)
        writers.append(Writer(stream, part.tap, paths, made.why, made.matrices, made.rows))
        if stream == ATTN_OUT:
            heads = find_heads(graph, link, part.value, paths)
    keeps = (*(part.keep for part in parts), course.keep)
    return Block(
        module=link.call.path,
        writers=tuple(writers),
        resid_mid=middle(graph, link, course, parts),
        heads=heads,
        scale=course.scale or None,
        start=found.start,
        keeps=keeps if any(keep != 1.0 for keep in keeps) else (),
    )


def _notes(chain: Chain, embedding: str) -> list[str]:
    notes = [embedding] if embedding else []
    if chain.idle:
        many = counted(len(chain.idle), "block")
        notes.append(f"Text alone doesn't run {many} ({', '.join(chain.idle)}), so layers are counted without them.")
    return notes
