"""The self-test: is the live model what its adapter declares? Every answer is measured on the model itself.

Some short forward passes on random tokens. Nothing that they put on the model stays there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerkit.api.architecture import Layout, Tap
from steerkit.engine.sites.behaviours import Behaviours, behaviours_of
from steerkit.engine.sites.checks import Check, compare, per_row, result, wide
from steerkit.engine.sites.evaluating import uncompiled
from steerkit.engine.sites.finite import not_finite, told
from steerkit.engine.sites.offloaded import require_in_parts
from steerkit.engine.sites.selftest_heads import check_heads_apart
from steerkit.engine.sites.selftest_mixing import check_mixing
from steerkit.engine.sites.selftest_passes import Bench, Trace, bench, by_hand_logits, tensor_at
from steerkit.engine.sites.selftest_shares import agreed, check_together
from steerkit.engine.sites.selftest_sums import (
    check_block_sum,
    check_coverage,
    check_embed,
    check_embed_weight,
    check_head_out,
    check_projections,
    check_resid_chain,
    check_resid_mid,
    check_weighed,
)
from steerkit.engine.sites.taps import submodule
from steerkit.errors import SelfTestError, SiteError, counted
from steerkit.types import RESID_POST, RESID_PRE, Site

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
            "(`model: {adapter: ...}`), or write one for it: `steerkit new-plugin NAME --kind "
            "architecture` makes its package, and `steerkit.testing.ArchitectureSuite` proves it."
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
        checks, sites = agreed(on, _run_checks(on)), tuple(on.taps.items())
        passed = all(check.passed for check in checks)
        behaviours = agreed(on, behaviours_of(on)) if passed else ()
    return SelfTestReport(adapter, model_type, checks, sites, () if passed else not_finite(model), behaviours)


def _run_checks(on: Bench) -> list[Check]:
    found = [_check_modules(on)]
    if not found[0].passed:
        return found
    plain, runs = on.plain()
    trace = on.zero_update()
    found = list(agreed(on, [*found, _check_base(on, runs), _check_sites(on, trace)]))
    if not all(check.passed for check in found):
        return found
    found += [
        _check_zero_update(on, plain, trace),
        *check_together(on, plain, trace),
        check_block_sum(on, trace),
        check_resid_chain(on, trace),
        check_embed(on, trace),
        check_embed_weight(on, trace),
        check_resid_mid(on, trace),
        check_projections(on, trace),
        check_weighed(on, trace),
        check_head_out(on, trace),
        check_heads_apart(on),
        check_mixing(on),
        _check_logits(on, trace),
        _check_edited(on),
        check_coverage(on),
    ]
    return found


def _check_modules(on: Bench) -> Check:
    meaning = "every module and parameter that the layout names is there"
    layout = on.layout
    paths = [layout.base, layout.embed.module, *layout.behind, *layout.embed_beside]
    paths += [layout.embed_weight] if layout.embed_weight else []
    for layer, block in enumerate(layout.blocks):
        if block.keeps and len(block.keeps) != len(block.writers) + 1:
            detail = f"{counted(len(block.keeps), 'factor')} on the stream of {counted(len(block.writers), 'writer')}."
            return Check("modules", meaning, False, site=f"blocks.{layer}", detail=detail)
        paths += [block.module, block.resid_pre.module, block.resid_pre.flat_within]
        paths += [writer.tap.flat_within for writer in block.writers]
        paths += [path for writer in block.writers for path in (writer.tap.module, *writer.projections)]
        paths += [tap.module for tap in (block.resid_mid, block.heads and block.heads.tap) if tap]
    scales = [block.scale for block in layout.blocks if block.scale]
    writers = [writer for block in layout.blocks for writer in block.writers]
    weighed = [path for writer in writers for path in (*writer.weighed, *writer.weighed_rows)]
    for read, names in ((submodule, paths), (tensor_at, scales), (_part, weighed)):
        for path in names:
            try:
                read(on.model, path)
            except SiteError as error:
                return Check("modules", meaning, False, site=path, detail=str(error))
    return Check("modules", meaning, True)


def _part(model: nn.Module, path: str) -> nn.Module | Tensor:
    """A module, or a parameter where there is none of that path."""
    try:
        return submodule(model, path)
    except SiteError:
        return tensor_at(model, path)


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
    check = result("zero_update", meaning, [compare("logits", trace.output, plain, 0.0)])
    if check.passed:
        return check
    # Some kernels add in an order of their own each time; then bits can't be compared, only sizes.
    again = float((wide(on.run(head=True)) - wide(plain)).abs().max())
    if again > 0 and check.max_abs_error is not None and check.max_abs_error <= 10 * again:
        detail = f"The model itself gives other bits each time (by {again:.3g}), so bits can't be compared."
        return replace(check, passed=True, tolerance=10 * again, detail=detail)
    return check


def _check_logits(on: Bench, trace: Trace) -> Check:
    meaning = "final norm, head and the declared scale and soft cap on the last resid_post give the logits"
    last = Site(RESID_POST, on.layout.n_layers - 1)
    expected = by_hand_logits(on.model, on.layout, trace[last])
    return result("logits", meaning, [compare("logits", trace.output, expected, per_row(trace.output, 4))])


def _check_edited(on: Bench) -> Check:
    meaning = "an edited resid_post gives what the later blocks and the head, run by hand on it, give"
    run = on.edited_run()
    findings = []
    for layer, block in enumerate(on.layout.blocks):
        if layer == 0 or block.resid_pre.module != block.module:
            continue
        seen = run.inputs[layer]
        findings.append(compare(Site(RESID_PRE, layer), seen, run.edited[layer - 1], 0.0))
        if findings[-1].passed:
            by_hand = run.block_by_hand(submodule(on.model, block.module), layer, run.edited[layer - 1])
            findings.append(compare(Site(RESID_POST, layer), by_hand, run.raw[layer], per_row(run.raw[layer], 4)))
    expected = by_hand_logits(on.model, on.layout, run.edited[-1])
    findings.append(compare("logits", run.logits, expected, per_row(run.logits, 4)))
    return result("edited_resid_post", meaning, findings)
