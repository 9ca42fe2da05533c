"""Which updates change nothing because earlier ones left nothing to change.

The residual stream is a sum: the embedding and what every writer adds. Where all of these had a span
projected out, the stream has none of it, and projecting it out again is the identity. So with an
ablation at embedding and writers (2L + 1 sites of a plain model) the ones at ``resid_pre``,
``resid_mid`` and ``resid_post`` are dropped; and the paper's 3L sites need no more than these.

Followed in forward order, token by token: for each set of tokens that updates are stated for, the
span that the stream is known to hold nothing of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.api.intervention import Affine, Update
from steerkit.engine.lowering.algebra import NEGLIGIBLE, wants_gradient
from steerkit.engine.lowering.edits import Edit
from steerkit.engine.sequence.when import ALWAYS, When
from steerkit.types import EMBED, HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE, Site


@dataclass(frozen=True, eq=False)
class Span:
    """A subspace with an orthonormal basis, ``[k, d_model]`` in float64, or empty."""

    basis: Tensor | None = None


NOTHING = Span()
_SUMS = (RESID_PRE, RESID_MID, RESID_POST)


@dataclass
class _Memory:
    """Results by identity: one update usually stands at every site, and its span is worked out once."""

    after: dict[tuple[int, int, bool], Span] = field(default_factory=dict)
    inside: dict[tuple[int, int], bool] = field(default_factory=dict)
    both: dict[tuple[int, int], Span] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)


def redundant(edits: Sequence[Edit], layout: Layout) -> set[int]:
    """Places in ``edits`` of those that may be dropped.

    Args:
        edits: of one condition, in forward order.
        layout: the model's.
    """
    if not _may_be_redundant(edits):
        return set()
    by_site: dict[Site, list[int]] = {}
    for place, edit in enumerate(edits):
        by_site.setdefault(edit.site, []).append(place)
    keys = tuple(dict.fromkeys((ALWAYS, *(edit.when for edit in edits if edit.when.selects))))
    memory = _Memory()
    dropped: set[int] = set()
    stream = dict.fromkeys(keys, NOTHING)
    writers = {(block, writer.stream) for block, one in enumerate(layout.blocks) for writer in one.writers}
    for site in layout.sites():
        if site.stream == HEAD_OUT:
            continue
        places = by_site.get(site, [])
        if site.stream == EMBED:
            # That what is projected out of the embedding is out of the stream, the self-test has seen.
            stream = _clean_after_site(edits, places, dict.fromkeys(keys, NOTHING), dropped, memory)
        elif (site.layer, site.stream) in writers:
            written = _clean_after_site(edits, places, dict.fromkeys(keys, NOTHING), dropped, memory)
            stream = {key: _clean_of_both(stream[key], written[key], memory) for key in keys}
        elif site.stream == RESID_POST and layout.blocks[site.layer].not_a_sum:
            # A norm in the stream may bring back what was taken out.
            stream = _clean_after_site(edits, places, dict.fromkeys(keys, NOTHING), dropped, memory)
        elif site == Site(RESID_PRE, 0) and layout.not_a_sum and not layout.embed_is_first_resid_pre:
            # Where a block is no sum the self-test hasn't seen what lies between the embedding and the stream.
            stream = _clean_after_site(edits, places, dict.fromkeys(keys, NOTHING), dropped, memory)
        elif places:
            stream = _clean_after_site(edits, places, stream, dropped, memory)
    return dropped


def _clean_after_site(
    edits: Sequence[Edit], places: Sequence[int], clean: dict[When, Span], dropped: set[int], memory: _Memory
) -> dict[When, Span]:
    """What a value is clean of after the edits at one site; notes those that change nothing."""
    for place in places:
        edit = edits[place]
        for key in {edit.when, ALWAYS} & clean.keys():
            if _update_changes_nothing(edit.update, clean[key], memory):
                dropped.add(place)
        if place not in dropped:
            # Tokens of other keys may be among the edited ones, or not: what is known of them holds in both cases.
            clean = {
                key: _clean_after_update(span, edit.update, edit.when in (key, ALWAYS), memory)
                for key, span in clean.items()
            }
    return clean


def _may_be_redundant(edits: Sequence[Edit]) -> bool:
    """Whether anything reads a value that another one may have cleaned: two at one site, or one at a sum."""
    sites = [edit.site for edit in edits if isinstance(edit.update, Affine) and edit.update.reads is not None]
    return len(set(sites)) < len(sites) or (len(sites) > 1 and any(site.stream in _SUMS for site in sites))


def _update_changes_nothing(update: Update, clean: Span, memory: _Memory) -> bool:
    """Whether an update without a constant reads only what a value has nothing of."""
    if clean.basis is None or not isinstance(update, Affine) or update.bias is not None or update.reads is None:
        return False
    key = (id(clean), id(update))
    if key not in memory.inside:
        memory.kept += [clean, update]
        reads = update.reads.detach().double()
        outside = reads - (reads @ clean.basis.T) @ clean.basis
        memory.inside[key] = not wants_gradient(update) and bool(
            (outside.norm(dim=1) <= NEGLIGIBLE * reads.norm(dim=1)).all()
        )
    return memory.inside[key]


def _clean_after_update(clean: Span, update: Update, everywhere: bool, memory: _Memory) -> Span:
    """What a value is clean of after an update.

    Args:
        clean: before it.
        update: the update.
        everywhere: whether it acts at all tokens that ``clean`` speaks of.
        memory: of earlier answers.
    """
    key = (id(clean), id(update), everywhere)
    if key not in memory.after:
        memory.kept += [clean, update]
        memory.after[key] = _clean_span(clean, update, everywhere)
    return memory.after[key]


def _clean_span(clean: Span, update: Update, everywhere: bool) -> Span:
    if not isinstance(update, Affine) or wants_gradient(update):
        return NOTHING
    basis = clean.basis
    bias = None if update.bias is None else update.bias.detach().double()[None]
    if update.reads is not None and update.writes is not None:
        reads, writes = update.reads.detach().double(), update.writes.detach().double()
        if basis is not None:
            # A value that is clean of the basis is read only beside it.
            outside = reads - (reads @ basis.T) @ basis
            active = outside.norm(dim=1) > NEGLIGIBLE * reads.norm(dim=1)
            basis = _span_orthogonal_to(basis, writes[active])
        gram = reads @ reads.T
        orthonormal = torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-5)
        if everywhere and orthonormal and torch.allclose(writes, -reads, atol=1e-6):
            rows = reads if basis is None else torch.cat([basis, reads])
            _, values, rows = torch.linalg.svd(rows, full_matrices=False)
            basis = rows[values > 1e-5]
    if bias is not None and basis is not None:
        basis = _span_orthogonal_to(basis, bias)
    return NOTHING if basis is None or basis.shape[0] == 0 else Span(basis)


def _span_orthogonal_to(basis: Tensor, vectors: Tensor) -> Tensor:
    """The part of a span that is orthogonal to all of some vectors."""
    if basis.shape[0] == 0 or vectors.shape[0] == 0:
        return basis
    norms = vectors.norm(dim=1, keepdim=True)
    # Unit rows: whether they are orthogonal is a matter of angles, whatever their lengths.
    overlap = basis @ (vectors / torch.where(norms > 0, norms, 1)).T
    one, values, _ = torch.linalg.svd(overlap, full_matrices=True)
    rank = int((values > NEGLIGIBLE).sum())
    kept: Tensor = one[:, rank:].T @ basis
    return kept


def _clean_of_both(one: Span, other: Span, memory: _Memory) -> Span:
    """What both are clean of, so that their sum is as well."""
    if one is other or one.basis is None or other.basis is None:
        return one if one is other else NOTHING
    key = (id(one), id(other))
    if key not in memory.both:
        memory.kept += [one, other]
        # Principal angles: directions of one that lie in the other have singular value 1.
        left, values, _ = torch.linalg.svd(one.basis @ other.basis.T)
        rank = int((values > 1 - NEGLIGIBLE**2).sum())
        memory.both[key] = Span(left[:, :rank].T @ one.basis) if rank else NOTHING
    return memory.both[key]
