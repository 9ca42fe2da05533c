"""The self-test: is the live model what its adapter declares? Every answer is measured on the model itself.

Some short forward passes on random tokens. Nothing that they put on the model stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.api.architecture import Block, Layout, Tap
from steerkit.engine.sites.behaviours import Behaviours, behaviours_of
from steerkit.engine.sites.checks import Check
from steerkit.engine.sites.evaluating import uncompiled
from steerkit.engine.sites.finite import not_finite, told
from steerkit.engine.sites.offloaded import require_in_parts
from steerkit.engine.sites.selftest_heads import check_heads_apart
from steerkit.engine.sites.selftest_mixing import check_mixing
from steerkit.engine.sites.selftest_passes import Bench, Trace, bench, by_hand_logits, tensor_at
from steerkit.engine.sites.selftest_weighed import weighed_contributions
from steerkit.engine.sites.taps import submodule
from steerkit.errors import SelfTestError, SiteError, counted
from steerkit.types import ATTN_OUT, EMBED, HEAD_OUT, RESID_MID, RESID_POST, RESID_PRE, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SelfTestReport:
    """What the self-test found.

    Args:
        adapter: name of the adapter, where the caller gave it.
        model_type: of the model.
        checks: in the order in which they build on each other.
        sites: every site with its module and the side of it.
        not_finite: of a model that fails, the parameters and buffers that hold NaN or infinite values.
        behaviours: how it behaves without steering, of a model that passes. No model is refused for them.
    """

    adapter: str
    model_type: str
    checks: tuple[Check, ...]
    sites: tuple[tuple[Site, Tap], ...]
    not_finite: tuple[str, ...] = ()
    behaviours: tuple[Check, ...] = ()

    @property
    def behaves(self) -> Behaviours:
        """The same in three words, for what runs passes."""
        return Behaviours.of(self.behaviours)

    @property
    def passed(self) -> bool:
        """Whether every check of the self-test passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> frozenset[str]:
        """Names of the checks that failed."""
        return frozenset(check.name for check in self.checks if not check.passed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. An error that isn't a finite number is null."""
        return {
            "adapter": self.adapter,
            "model_type": self.model_type,
            "passed": self.passed,
            "not_finite": list(self.not_finite),
            "checks": [_plain(check) for check in self.checks],
            "behaviours": [_plain(check) for check in self.behaviours],
            "sites": [{"site": str(site), "module": tap.module, "side": tap.side} for site, tap in self.sites],
        }

    def raise_if_failed(self) -> None:
        """Raise ``SelfTestError`` with the first site that fails and the error in numbers, unless all passed."""
        failed = [check for check in self.checks if not check.passed]
        if not failed:
            return
        if self.not_finite:
            raise SelfTestError(told(self.model_type, self.not_finite))
        first = failed[0]
        who = f"adapter {self.adapter!r}" if self.adapter else "its adapter"
        others = f" Also failed: {', '.join(check.name for check in failed[1:])}." if failed[1:] else ""
        raise SelfTestError(
            f"The {self.model_type!r} model is not what {who} declares. First failure: {first.name} at "
            f"{first.site or 'the model'}. Expected: {first.meaning}.{first.numbers}{others} "
            "Directions and interventions on it would be wrong, so it is refused. Name another adapter "
            "(`model: {adapter: ...}`), or write one for it: start from plugins/template and prove it with "
            "`steerkit.testing.ArchitectureSuite`."
        )


def _plain(check: Check) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "name": check.name,
        "max_abs_error": number(check.max_abs_error),
        "passed": check.passed,
        "tolerance": number(check.tolerance),
        "site": check.site,
        "meaning": check.meaning,
        "detail": check.detail,
    }


@torch.no_grad()
def self_test(model: PreTrainedModel, layout: Layout, *, seed: int = 0, adapter: str = "") -> SelfTestReport:
    """Test a layout on a live model. The model is left as it was: hooks, bits and modes.

    Args:
        model: on any device, in any dtype.
        layout: what an adapter declares about it.
        seed: of the random tokens, vectors and edits.
        adapter: its name, for messages.
    """
    model_type = str(getattr(model.config, "model_type", type(model).__name__))
    require_in_parts(model, layout)
    with uncompiled(), bench(model, layout, seed) as on:
        checks, sites = tuple(_run_checks(on)), tuple(on.taps.items())
        passed = all(check.passed for check in checks)
        behaviours = behaviours_of(on) if passed else ()
    return SelfTestReport(adapter, model_type, checks, sites, () if passed else not_finite(model), behaviours)


def _run_checks(on: Bench) -> list[Check]:
    found = [_check_modules(on)]
    if not found[0].passed:
        return found
    plain, runs = on.plain()
    trace = on.zero_update()
    found += [_check_base(on, runs), _check_sites(on, trace)]
    if not all(check.passed for check in found):
        return found
    found += [
        _check_zero_update(on, plain, trace),
        _check_block_sum(on, trace),
        _check_resid_chain(on, trace),
        _check_embed(on, trace),
        _check_embed_weight(on, trace),
        _check_resid_mid(on, trace),
        _check_projections(on, trace),
        _check_weighed(on, trace),
        _check_head_out(on, trace),
        check_heads_apart(on),
        check_mixing(on),
        _check_logits(on, trace),
        _check_edited(on),
        _check_coverage(on),
    ]
    return found


@dataclass(frozen=True)
class _Finding:
    """Errors at one place against what they may be, element by element; kept as the two numbers that matter."""

    site: str
    error: float
    allowed: float
    passed: bool


def _compare(site: object, found: Tensor, expected: Tensor, allowed: Tensor | float) -> _Finding:
    """Where the error exceeds its allowance most. A value that isn't finite is an error."""
    if found.shape != expected.shape:
        return _Finding(f"{site} (shape {list(found.shape)}, expected {list(expected.shape)})", math.inf, 0.0, False)
    error = (_wide(found) - _wide(expected)).abs()
    limit = torch.as_tensor(allowed, dtype=torch.float64).expand_as(error)
    if not bool(error.isfinite().all()):
        return _Finding(str(site), math.inf, float(limit.max()), False)
    worst = (error - limit).flatten().argmax()
    passed = bool((error <= limit).all())
    at = error.argmax() if passed else worst
    return _Finding(str(site), float(error.flatten()[at]), float(limit.flatten()[at]), passed)


def _result(name: str, meaning: str, findings: Iterable[_Finding], detail: str = "") -> Check:
    """The first place that fails, or the worst one where none does."""
    listed = list(findings)
    if not listed:
        return Check(name, meaning, True, detail=detail or "Nothing of the kind is declared.")
    failed = [item for item in listed if not item.passed]
    shown = failed[0] if failed else max(listed, key=lambda item: item.error)
    return Check(name, meaning, not failed, shown.error, shown.allowed, shown.site, detail)


def _wide(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float64)


def _rows(value: Tensor, factor: float) -> Tensor:
    """An allowance per token: so many roundings of its largest entry."""
    return factor * torch.finfo(value.dtype).eps * _wide(value).abs().amax(-1, keepdim=True)


def _check_modules(on: Bench) -> Check:
    meaning = "every module that the layout names is there"
    layout = on.layout
    paths = [layout.base, layout.embed.module, *layout.behind, *layout.embed_beside]
    paths += [layout.embed_weight] if layout.embed_weight else []
    for block in layout.blocks:
        paths += [block.module, block.resid_pre.module]
        paths += [path for writer in block.writers for path in (writer.tap.module, *writer.projections)]
        paths += [tap.module for tap in (block.resid_mid, block.heads and block.heads.tap) if tap]
    scales = [block.scale for block in layout.blocks if block.scale]
    for read, names in ((submodule, paths), (tensor_at, scales)):
        for path in names:
            try:
                read(on.model, path)
            except SiteError as error:
                return Check("modules", meaning, False, site=path, detail=str(error))
    return Check("modules", meaning, True)


def _check_base(on: Bench, runs: int) -> Check:
    meaning = "a pass of the model runs the base model once, which is told there which tokens it holds"
    path = on.layout.base
    detail = "" if runs == 1 else f"{path!r} runs {counted(runs, 'time')} in a pass."
    return Check("base", meaning, runs == 1, site=path, detail=detail)


def _check_sites(on: Bench, trace: Trace) -> Check:
    meaning = "a forward pass meets every site once, with one vector per token, of the declared width"
    for site, tap in on.taps.items():
        seen = trace.seen[site]
        width = on.layout.width(site)
        if len(seen) == 1 and seen[0].shape == (*on.ids.shape, width):
            continue
        what = f"it was met {len(seen)} times" if len(seen) != 1 else f"its shape is {list(seen[0].shape)}"
        detail = f"At {tap.module!r} {what}, for tokens {list(on.ids.shape)} and width {width}."
        return Check("sites", meaning, False, site=str(site), detail=detail)
    return Check("sites", meaning, True)


def _check_zero_update(on: Bench, plain: Tensor, trace: Trace) -> Check:
    meaning = "adding zero at every site leaves the logits bit-identical"
    check = _result("zero_update", meaning, [_compare("logits", trace.output, plain, 0.0)])
    if check.passed:
        return check
    # Some kernels add in an order of their own each time; then bits can't be compared, only sizes.
    again = float((_wide(on.run(head=True)) - _wide(plain)).abs().max())
    if again > 0 and check.max_abs_error is not None and check.max_abs_error <= 10 * again:
        detail = f"The model itself gives other bits each time (by {again:.3g}), so bits can't be compared."
        return replace(check, passed=True, tolerance=10 * again, detail=detail)
    return check


def _writer_contributions(block: Block, layer: int, trace: Trace) -> list[Tensor]:
    return [trace[Site(writer.stream, layer)] for writer in block.writers]


def _check_block_sum(on: Bench, trace: Trace) -> Check:
    meaning = "a block's input and its writers, times the block's factors and scale, sum to its output"

    def block_sum(layer: int, block: Block) -> _Finding:
        parts = [trace[Site(RESID_PRE, layer)], *_writer_contributions(block, layer, trace)]
        scale = tensor_at(on.model, block.scale) if block.scale else None
        total, size = parts[0], _wide(parts[0]).abs()
        for place, part in enumerate(parts[1:]):
            kept = block.keep(place)
            total, size = total * kept + part, size * abs(kept) + _wide(part).abs()
        total, size = total * block.keep(len(block.writers)), size * abs(block.keep(len(block.writers)))
        if scale is not None:
            total, size = total * scale, size * _wide(scale).abs()
        allowed = 2 * len(parts) * torch.finfo(total.dtype).eps * size
        return _compare(Site(RESID_POST, layer), trace[Site(RESID_POST, layer)], total, allowed)

    sums = [item for item in enumerate(on.layout.blocks) if not item[1].not_a_sum]
    return _result("block_sum", meaning, (block_sum(*item) for item in sums))


def _check_resid_chain(on: Bench, trace: Trace) -> Check:
    meaning = "a block's output is the next one's input"
    links = ((Site(RESID_PRE, layer + 1), Site(RESID_POST, layer)) for layer in range(on.layout.n_layers - 1))
    return _result("resid_chain", meaning, (_compare(after, trace[after], trace[last], 0.0) for after, last in links))


def _check_embed(on: Bench, trace: Trace) -> Check:
    meaning = "embed and blocks.0.resid_pre are one place: equal, and an edit at either does the same"
    if not on.layout.embed_is_first_resid_pre:
        detail = "Declared distinct from blocks.0.resid_pre, so nothing is compared."
        return Check("embed", "embed is as declared", True, site=EMBED, detail=detail)
    first = Site(RESID_PRE, 0)
    noise = on.noise_like(trace[Site(EMBED)])
    at_embed = on.run([(on.taps[Site(EMBED)], lambda value: value + noise)])
    at_first = on.run([(on.taps[first], lambda value: value + noise)])
    findings = [
        _compare(EMBED, trace[first], trace[Site(EMBED)], 0.0),
        _compare(f"{EMBED}, edited: the final norm", at_embed, at_first, _rows(at_first, 4)),
    ]
    return _result("embed", meaning, findings)


def _check_embed_weight(on: Bench, trace: Trace) -> Check:
    meaning = "the embedding is the declared weight's rows, times one factor, and those of the embeddings beside it"
    if not on.layout.embed_weight:
        return _result("embed_weight", meaning, [])
    value = trace[Site(EMBED)]
    rows = _wide(tensor_at(on.model, f"{on.layout.embed_weight}.weight")[on.ids])
    if rows.shape != value.shape:
        return _result("embed_weight", meaning, [_compare(EMBED, value, rows, 0.0)])
    findings, own, size = [], _wide(value), _rows(value, 4)
    for path in on.layout.embed_beside:
        for beside in trace.projections[path]:
            findings.append(_compare(path, beside, _nearest_rows(beside, on, path), 0.0))
            own, size = own - _wide(beside), size + _rows(beside, 4)
    factor = (own * rows).sum() / (rows * rows).sum()
    return _result("embed_weight", meaning, [*findings, _compare(EMBED, own, factor * rows, size)])


def _nearest_rows(value: Tensor, on: Bench, path: str) -> Tensor:
    """The row of a table that is nearest to each vector of ``[*, d_model]``."""
    table = _wide(tensor_at(on.model, f"{path}.weight"))
    nearest = torch.cdist(_wide(value).reshape(-1, value.shape[-1]), table).argmin(-1)
    return table[nearest].reshape(value.shape).to(value.dtype)


def _check_resid_mid(on: Bench, trace: Trace) -> Check:
    meaning = "between the first two writers lies the block's input plus the first contribution"

    def middle(layer: int, block: Block) -> _Finding:
        pre, first = trace[Site(RESID_PRE, layer)], trace[Site(block.writers[0].stream, layer)]
        pre = pre if block.keep(0) == 1.0 else pre * block.keep(0)
        allowed = 2 * torch.finfo(pre.dtype).eps * (_wide(pre).abs() + _wide(first).abs())
        return _compare(Site(RESID_MID, layer), trace[Site(RESID_MID, layer)], pre + first, allowed)

    declared = [(layer, block) for layer, block in enumerate(on.layout.blocks) if block.resid_mid]
    return _result("resid_mid", meaning, (middle(*item) for item in declared))


def _check_projections(on: Bench, trace: Trace) -> Check:
    meaning = "the outputs of a writer's declared projections sum to its contribution"
    findings = []
    declared = [(layer, writer) for layer, block in enumerate(on.layout.blocks) for writer in block.writers]
    for layer, writer in declared:
        if writer.projections:
            value = trace[Site(writer.stream, layer)]
            total = torch.zeros_like(value)
            for output in (output for path in writer.projections for output in trace.projections[path]):
                total = total + output.reshape(value.shape) * writer.tap.factor
            allowed = _rows(value, 4 * len(writer.projections))
            findings.append(_compare(Site(writer.stream, layer), value, total, allowed))
    return _result("projections", meaning, findings)


def _check_weighed(on: Bench, trace: Trace) -> Check:
    meaning = "what a router weighs is all that a contribution is made of, and the contribution is linear in it"
    found = weighed_contributions(on, trace)
    return _result("weighed", meaning, (_compare(site, value, new, _rows(new, 8)) for site, value, new in found))


def _check_head_out(on: Bench, trace: Trace) -> Check:
    meaning = "a token's heads are all that its attn_out is made of: with zeros there, it is the same at every token"
    with_heads = [(layer, block) for layer, block in enumerate(on.layout.blocks) if block.heads]
    silent = on.without_heads()
    findings = []
    for layer, block in with_heads:
        streams = [writer.stream for writer in block.writers]
        site = Site(ATTN_OUT if ATTN_OUT in streams else streams[0], layer)
        value, usual = silent[site][:, ::2], trace[site]
        findings.append(_compare(site, value, value[:1, :1].expand_as(value), _rows(usual[:, ::2], 4)))
        if bool((usual == usual[:1, :1]).all()):
            findings.append(_Finding(f"{site} (it is the same at every token anyway)", math.inf, 0.0, False))
    return _result("head_out", meaning, findings)


def _check_logits(on: Bench, trace: Trace) -> Check:
    meaning = "final norm, head and the declared scale and soft cap on the last resid_post give the logits"
    last = Site(RESID_POST, on.layout.n_layers - 1)
    expected = by_hand_logits(on.model, on.layout, trace[last])
    return _result("logits", meaning, [_compare("logits", trace.output, expected, _rows(trace.output, 4))])


def _check_edited(on: Bench) -> Check:
    meaning = "an edited resid_post gives what the later blocks and the head, run by hand on it, give"
    run = on.edited_run()
    findings = []
    for layer, block in enumerate(on.layout.blocks):
        if layer == 0 or block.resid_pre.module != block.module:
            continue
        seen = run.inputs[layer]
        findings.append(_compare(Site(RESID_PRE, layer), seen, run.edited[layer - 1], 0.0))
        if findings[-1].passed:
            by_hand = run.block_by_hand(submodule(on.model, block.module), layer, run.edited[layer - 1])
            findings.append(_compare(Site(RESID_POST, layer), by_hand, run.raw[layer], _rows(run.raw[layer], 4)))
    expected = by_hand_logits(on.model, on.layout, run.edited[-1])
    findings.append(_compare("logits", run.logits, expected, _rows(run.logits, 4)))
    return _result("edited_resid_post", meaning, findings)


def _largest_factor(on: Bench, block: Block) -> float:
    """By how much a block may enlarge what rounding leaves, by all that multiplies its stream."""
    scale = float(_wide(tensor_at(on.model, block.scale)).abs().max()) if block.scale else 1.0
    return scale * math.prod(max(1.0, abs(kept)) for kept in block.keeps)


def _check_coverage(on: Bench) -> Check:
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
        value = _wide(trace[site])
        # Each value so far was rounded once; what that may leave along the direction adds up in squares.
        noise = noise + (value * unit).square().sum(-1)
        if site.stream == RESID_POST:
            noise = noise * max(1.0, _largest_factor(on, on.layout.blocks[site.layer])) ** 2
        if site.stream in (RESID_PRE, RESID_MID, RESID_POST):
            # What is left is itself computed in float64, which shows where the model is float64 too.
            allowed = 3 * (torch.finfo(trace[site].dtype).eps + torch.finfo(torch.float64).eps) * noise.sqrt()
            left = (value @ unit).abs()
            findings.append(_compare(site, left, torch.zeros_like(left), allowed))
    return _result("writers_covered", meaning, findings)
