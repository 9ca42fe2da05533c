"""The self-test of sums: that what a layout says is added is all that is added, and where it says so."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steerkit.api.architecture import Block
from steerkit.engine.parallel.shards import rows_of, whole
from steerkit.engine.sites.checks import Check, Finding, compare, per_row, result, wide
from steerkit.engine.sites.selftest_passes import Bench, Trace, tensor_at
from steerkit.engine.sites.selftest_weighed import weighed_contributions
from steerkit.types import ATTN_OUT, EMBED, HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE, Site


def _writer_contributions(block: Block, layer: int, trace: Trace) -> list[Tensor]:
    return [trace[Site(writer.stream, layer)] for writer in block.writers]


def check_block_sum(on: Bench, trace: Trace) -> Check:
    """Each block's output against its parts."""
    meaning = "a block's input and its writers, times the block's factors and scale, sum to its output"

    def block_sum(layer: int, block: Block) -> Finding:
        after = trace[Site(RESID_POST, layer)]
        # What goes into a block may come from another device, as long as nothing in the block has asked for it.
        parts = [
            part.to(after.device)
            for part in (trace[Site(RESID_PRE, layer)], *_writer_contributions(block, layer, trace))
        ]
        scale = whole(tensor_at(on.model, block.scale)) if block.scale else None
        total, size = parts[0], wide(parts[0]).abs()
        for place, part in enumerate(parts[1:]):
            kept = block.keep(place)
            total, size = total * kept + part, size * abs(kept) + wide(part).abs()
        total, size = total * block.keep(len(block.writers)), size * abs(block.keep(len(block.writers)))
        if scale is not None:
            total, size = total * scale.to(after.device), size * wide(scale).abs()
        allowed = 2 * len(parts) * torch.finfo(total.dtype).eps * size
        return compare(Site(RESID_POST, layer), after, total, allowed)

    sums = [item for item in enumerate(on.layout.blocks) if not item[1].not_a_sum]
    return result("block_sum", meaning, (block_sum(*item) for item in sums))


def check_resid_chain(on: Bench, trace: Trace) -> Check:
    """Each block's input against the output of the one before."""
    meaning = "a block's output is the next one's input"
    links = ((Site(RESID_PRE, layer + 1), Site(RESID_POST, layer)) for layer in range(on.layout.n_layers - 1))
    return result("resid_chain", meaning, (compare(after, trace[after], trace[last], 0.0) for after, last in links))


def check_embed(on: Bench, trace: Trace) -> Check:
    """The embedding against the first block's input."""
    meaning = "embed and blocks.0.resid_pre are one place: equal, and an edit at either does the same"
    if not on.layout.embed_is_first_resid_pre:
        detail = "Declared distinct from blocks.0.resid_pre, so nothing is compared."
        return Check("embed", "embed is as declared", True, site=EMBED, detail=detail)
    first = Site(RESID_PRE, 0)
    noise = on.noise_like(trace[Site(EMBED)])
    at_embed = on.run([(on.taps[Site(EMBED)], lambda value: value + noise)])
    at_first = on.run([(on.taps[first], lambda value: value + noise)])
    findings = [
        compare(EMBED, trace[first], trace[Site(EMBED)], 0.0),
        compare(f"{EMBED}, edited: the final norm", at_embed, at_first, per_row(at_first, 4)),
    ]
    return result("embed", meaning, findings)


def check_embed_weight(on: Bench, trace: Trace) -> Check:
    """The embedding against the rows of its tables."""
    meaning = "the embedding is the declared weight's rows, times one factor, and those of the embeddings beside it"
    if not on.layout.embed_weight:
        return result("embed_weight", meaning, [])
    value = trace[Site(EMBED)]
    rows = wide(rows_of(tensor_at(on.model, f"{on.layout.embed_weight}.weight"), on.ids))
    if rows.shape != value.shape:
        return result("embed_weight", meaning, [compare(EMBED, value, rows, 0.0)])
    findings, own, size = [], wide(value), per_row(value, 4)
    for path in on.layout.embed_beside:
        for beside in trace.projections[path]:
            findings.append(compare(path, beside, _nearest_rows(beside, on, path), 0.0))
            own, size = own - wide(beside), size + per_row(beside, 4)
    factor = (own * rows).sum() / (rows * rows).sum()
    return result("embed_weight", meaning, [*findings, compare(EMBED, own, factor * rows, size)])


def _nearest_rows(value: Tensor, on: Bench, path: str) -> Tensor:
    """The row of a table that is nearest to each vector of ``[*, d_model]``."""
    table = wide(whole(tensor_at(on.model, f"{path}.weight")))
    nearest = torch.cdist(wide(value).reshape(-1, value.shape[-1]), table).argmin(-1)
    return table[nearest].reshape(value.shape).to(value.dtype)


def check_resid_mid(on: Bench, trace: Trace) -> Check:
    """The stream between the first two writers against what it is made of."""
    meaning = "between the first two writers lies the block's input plus the first contribution"

    def middle(layer: int, block: Block) -> Finding:
        first = trace[Site(block.writers[0].stream, layer)]
        pre = trace[Site(RESID_PRE, layer)].to(first.device)
        pre = pre if block.keep(0) == 1.0 else pre * block.keep(0)
        allowed = 2 * torch.finfo(pre.dtype).eps * (wide(pre).abs() + wide(first).abs())
        return compare(Site(RESID_MID, layer), trace[Site(RESID_MID, layer)], pre + first, allowed)

    declared = [(layer, block) for layer, block in enumerate(on.layout.blocks) if block.resid_mid]
    return result("resid_mid", meaning, (middle(*item) for item in declared))


def check_projections(on: Bench, trace: Trace) -> Check:
    """Contributions against what the declared projections gave."""
    meaning = "the outputs of a writer's declared projections sum to its contribution"
    findings = []
    declared = [(layer, writer) for layer, block in enumerate(on.layout.blocks) for writer in block.writers]
    for layer, writer in declared:
        if writer.projections:
            value = trace[Site(writer.stream, layer)]
            total = torch.zeros_like(value)
            for output in (output for path in writer.projections for output in trace.projections[path]):
                total = total + output.reshape(value.shape) * writer.tap.factor
            allowed = per_row(value, 4 * len(writer.projections))
            findings.append(compare(Site(writer.stream, layer), value, total, allowed))
    return result("projections", meaning, findings)


def check_weighed(on: Bench, trace: Trace) -> Check:
    """Contributions with all that a router weighs rolled, against contributions that are rolled."""
    meaning = "what a router weighs is all that a contribution is made of, and the contribution is linear in it"
    found = weighed_contributions(on, trace)
    return result("weighed", meaning, (compare(site, value, new, per_row(new, 8)) for site, value, new in found))


def check_head_out(on: Bench, trace: Trace) -> Check:
    """Contributions with zeros in place of heads at every other token."""
    meaning = "a token's heads are all that its attn_out is made of: with zeros there, it is the same at every token"
    with_heads = [(layer, block) for layer, block in enumerate(on.layout.blocks) if block.heads]
    silent = on.without_heads()
    findings = []
    for layer, block in with_heads:
        streams = [writer.stream for writer in block.writers]
        site = Site(ATTN_OUT if ATTN_OUT in streams else streams[0], layer)
        value, usual = silent[site][:, ::2], trace[site]
        findings.append(compare(site, value, value[:1, :1].expand_as(value), per_row(usual[:, ::2], 4)))
        if bool((usual == usual[:1, :1]).all()):
            findings.append(Finding(f"{site} (it is the same at every token anyway)", math.inf, 0.0, False))
    return result("head_out", meaning, findings)


def _largest_factor(on: Bench, block: Block) -> float:
    """By how much a block may enlarge what rounding leaves, by all that multiplies its stream."""
    scale = float(wide(whole(tensor_at(on.model, block.scale))).abs().max()) if block.scale else 1.0
    return scale * math.prod(max(1.0, abs(kept)) for kept in block.keeps)


def check_coverage(on: Bench) -> Check:
    """A random direction, taken out of everything that writes, is nowhere."""
    meaning = "with a random direction ablated at the embedding and every writer, none of it is left anywhere"
    if on.layout.not_a_sum:
        return Check("writers_covered", meaning, True, detail="Only the ends of blocks are declared.")
    unit = on.unit()
    trace = on.ablated(unit)
    findings = []
    noise = torch.zeros(on.ids.shape, dtype=torch.float64)
    for site in on.taps:
        if site.stream == HEAD_OUT:
            continue
        value = wide(trace[site])
        # Each value so far was rounded once; what that may leave along the direction adds up in squares.
        noise = noise + (value * unit).square().sum(-1)
        if site.stream == RESID_POST:
            noise = noise * max(1.0, _largest_factor(on, on.layout.blocks[site.layer])) ** 2
        if site.stream in (RESID_PRE, RESID_MID, RESID_POST):
            # What is left is itself computed in float64, which shows where the model is float64 too.
            allowed = 3 * (torch.finfo(trace[site].dtype).eps + torch.finfo(torch.float64).eps) * noise.sqrt()
            left = (value @ unit).abs()
            findings.append(compare(site, left, torch.zeros_like(left), allowed))
    return result("writers_covered", meaning, findings)
