"""Correctness first: a case whose logits are not the definition's is not timed, however fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerkit.bench.conditions import TOLERANCE, TOLERANCE_HALF, Case, steered
from steerkit.bench.measure import MeasurementError
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.bench.compiled import Compiled
    from steerkit.bench.workloads import Workload
    from steerkit.session.model import LiveModel


class WrongCaseError(MeasurementError):
    """A case that computes something else than its definition."""


@dataclass(frozen=True)
class Checked:
    """How far a case's logits are from the literal interpreter's.

    Args:
        case: its name.
        mode: how it was lowered.
        error: largest absolute difference in float32; in half precision the root mean square.
        allowed: most that is let through, sized by the logits.
        change: what steering itself changes, in the same measure; a check of a case that changes nothing is none.
        hooks: how many hooks were attached.
        equal: whether the steered logits are the unsteered ones to the bit, as those of ``idle`` must be.
    """

    case: str
    mode: str
    error: float
    allowed: float
    change: float
    hooks: int
    equal: bool


@dataclass(frozen=True, eq=False)
class Oracle:
    """Logits of one condition by the literal interpreter, and without steering.

    Args:
        plain: ``[batch, tokens, vocab]``.
        literal: likewise.
    """

    plain: Tensor
    literal: Tensor


def ask(live: LiveModel, condition: Case, plain: Workload) -> Oracle:
    """Run the definitions as they stand, without compilation, and the calls that cases are compared with."""
    with _naming(f"Case {condition.case!r}, read literally,"):
        with steered(live, condition, "interpret"):
            literal = plain.with_call(live.hf_model).logits()
        return Oracle(plain.logits(), literal)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which case an error is of."""
    try:
        yield
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        kind = "" if isinstance(error, SteerkitError) else f"{type(error).__name__}: "
        raise MeasurementError(
            f"{name} can't be run: {kind}{said.rstrip('.')}. Nothing is recorded; leave it out with --cases."
        ) from error


def check(
    live: LiveModel,
    condition: Case,
    mode: str,
    workload: Workload,
    plain: Workload,
    oracle: Oracle,
    compiled: Compiled | None = None,
) -> Checked:
    """Hold a lowered condition to its definition, and the model to what it was.

    Args:
        live: the model.
        condition: the case.
        mode: how it is lowered.
        workload: the calls that are to be timed.
        plain: those that they are compared with.
        oracle: what ``ask`` said.
        compiled: how cases are put on a compiled model; None for eager calls.

    Raises:
        WrongCaseError: where the logits differ, where steering changes nothing, or where it leaves a trace.
    """
    before = _hooks(live.hf_model)
    name = f"Case {condition.case!r} in mode {mode!r}"
    with _naming(name), steered(live, condition, mode) if compiled is None else compiled.steered(condition, mode):
        attached = _hooks(live.hf_model) - before
        found = workload.logits()
    if _hooks(live.hf_model) != before:
        raise WrongCaseError(f"{name} leaves a hook behind. It is not timed.")
    if not torch.equal(plain.logits(), oracle.plain):
        raise WrongCaseError(f"{name} changes the model for good: its logits are not what they were. It is not timed.")
    if condition.case == "idle":
        # A prepared site stays where it is, with zeros in it.
        return _check_idle(name, mode, attached if compiled is None else set(), found, oracle)
    error, size = _measures(found, oracle.literal)
    change, _ = _measures(oracle.literal, oracle.plain)
    allowed = (TOLERANCE if found.dtype == torch.float32 else TOLERANCE_HALF) * size
    # Not "error > allowed", which NaN would pass.
    if not error <= allowed:
        raise WrongCaseError(
            f"{name} gives logits that are {error:.3g} from the definition's; {allowed:.3g} are allowed. It is not "
            "timed. `steerkit inspect` tells whether the model's adapter fits it."
        )
    if not change > 3 * max(error, allowed / 3):
        raise WrongCaseError(f"{name} changes logits by {change:.3g} only, so a check of it proves nothing.")
    return Checked(condition.case, mode, error, allowed, change, len(attached), torch.equal(found, oracle.plain))


def _check_idle(name: str, mode: str, attached: set[tuple[int, int]], found: Tensor, oracle: Oracle) -> Checked:
    if attached:
        raise WrongCaseError(f"{name} attaches {len(attached)} hooks, and nothing should be attached. It is not timed.")
    if not torch.equal(found, oracle.plain):
        raise WrongCaseError(f"{name} changes logits by {float((found - oracle.plain).abs().max()):.3g}, not by 0.")
    return Checked("idle", mode, 0.0, 0.0, 0.0, 0, True)


def _measures(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """How far apart, and how big: by the maximum in float32, by the root mean square in half precision."""
    difference, size = (found.float() - expected.float()).abs(), expected.float().abs()
    if found.dtype == torch.float32:
        return float(difference.max()), max(1.0, float(size.max()))
    return float(difference.square().mean().sqrt()), float(size.square().mean().sqrt())


def _hooks(model: nn.Module) -> set[tuple[int, int]]:
    """Every hook on every module, by identity."""
    return set(_each_hook(model))


def _each_hook(model: nn.Module) -> Iterator[tuple[int, int]]:
    for module in model.modules():
        for table in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            for hook in table.values():
                yield id(module), id(hook)
