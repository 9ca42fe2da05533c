"""The self-test of a model on several processes: that they agree, and that what each adds isn't added once for each.

A projection that is cut along its input gives sums of shares, which are added up. A bias of it belongs to one of them,
or to what comes behind the sum: added to every share it would count once per process. Folding puts biases where there
were none, so one is put in here and looked at, with and without gradients, which libraries run differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from steerkit.engine.parallel.shards import mesh_of, of_each, placed_as_bias, sharded_input, share_of
from steerkit.engine.sites.checks import Check, Finding, compare, result
from steerkit.engine.sites.selftest_passes import Bench, Trace
from steerkit.engine.sites.taps import first_of, submodule
from steerkit.types import RESID_POST, Site

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def check_together(on: Bench, plain: Tensor, trace: Trace) -> tuple[Check, ...]:
    """What is asked of a model on several processes; nothing of one that a single process has.

    Args:
        on: the bench.
        plain: logits of a pass with nothing on the model.
        trace: of a pass that keeps every value.
    """
    mesh = mesh_of(on.model)
    return () if mesh is None else (_check_processes(on, plain, trace, mesh), _check_shares(on))


def _check_processes(on: Bench, plain: Tensor, trace: Trace, mesh: DeviceMesh) -> Check:
    """Whether every process has the same stream and logits, bit for bit: each decides by its own what to do next.

    The stream is compared as well, since processes may put logits together of what each makes of its own stream.
    """
    meaning = "every process that has a share of the model has the same stream and logits, bit for bit"
    last = trace[Site(RESID_POST, on.layout.n_layers - 1)]
    kinds = {"last stream": last, "final norm": on.run(), "logits": plain}
    return result("processes", meaning, [found for kind, value in kinds.items() for found in _alike(kind, value, mesh)])


def _alike(kind: str, value: Tensor, mesh: DeviceMesh) -> Iterator[Finding]:
    every = of_each(value, mesh)
    for place, one in enumerate(every):
        yield compare(f"process {place}: the {kind}", one, every[0], 0.0)


def agreed(on: Bench, checks: Sequence[Check]) -> tuple[Check, ...]:
    """Checks as they came out in all processes together: one that fails anywhere fails everywhere."""
    mesh = mesh_of(on.model)
    if mesh is None:
        return tuple(checks)
    passed = of_each(torch.tensor([check.passed for check in checks]), mesh)
    return tuple(_as_elsewhere(check, every.tolist()) for check, every in zip(checks, passed.T, strict=True))


def _as_elsewhere(check: Check, passed: Sequence[bool]) -> Check:
    if all(passed) or not check.passed:
        return check
    return replace(check, passed=False, max_abs_error=math.inf, detail=f"It fails in process {passed.index(False)}.")


def _check_shares(on: Bench) -> Check:
    """Whether a bias of a projection of which each process has a share is added once."""
    meaning = "a bias that is put into a projection of which each process has a share is added once"
    paths = {path for block in on.layout.blocks for writer in block.writers for path in writer.projections}
    paths |= {block.heads.tap.module for block in on.layout.blocks if block.heads and block.heads.tap.side == "input"}
    cut = [path for path in sorted(paths) if sharded_input(submodule(on.model, path)) is not None]
    widths = given_widths(on, cut)
    findings = [found for path in widths for found in _biases_at(submodule(on.model, path), path, widths[path])]
    return result("shares", meaning, findings, "" if cut else "No process has a share of any.")


def given_widths(on: Bench, paths: Sequence[str]) -> dict[str, int]:
    """How many values of a token a process gives some modules: all, or a share. Of those that run in a pass."""
    found: dict[str, int] = {}

    def look(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[path] = args[0].shape[-1]

        return hook

    with ExitStack() as stack:
        for path in paths:
            stack.callback(submodule(on.model, path).register_forward_pre_hook(look(path)).remove)
        on.run()
    return {path: found[path] for path in paths if path in found}


def _biases_at(module: nn.Module, path: str, width: int) -> Iterator[Finding]:
    weight = module._parameters["weight"]
    assert weight is not None  # of linear modules alone
    local = share_of(weight)
    bias = torch.arange(1, weight.shape[0] + 1).to(local)
    nothing = local.new_zeros(1, 1, width)
    kept = module._parameters["bias"]
    try:
        module._parameters["bias"] = nn.Parameter(placed_as_bias(bias, weight), requires_grad=False)
        for wanted in (False, True):
            with torch.set_grad_enabled(wanted):
                found = first_of(module(nothing.clone().requires_grad_(wanted))).detach()
            yield compare(path, found[0, 0], bias, 0.0)
    finally:
        module._parameters["bias"] = kept
