"""From a declared layout to one that the live model passes: all of it, what is left of it, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.engine.parallel.shards import in_every_process
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.engine.sites.selftest_memory import Passed, key_of, passed_before, remember_passed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from steerkit.api.architecture import ArchitectureAdapter, Layout
    from steerkit.engine.sites.selftest import SelfTestReport


@dataclass(frozen=True)
class Tested:
    """A layout that passed the self-test on a live model.

    Args:
        layout: as declared, or what is left of it.
        behaviours: of the model.
    """

    layout: Layout
    behaviours: Behaviours


def require_tested(
    model: PreTrainedModel,
    layout: Layout,
    adapter: ArchitectureAdapter,
    *,
    name: str,
    weights_hash: str | None,
) -> Tested:
    """Run the self-test, unless this very model passed it before; of a layout that fails, on what is left of it.

    Args:
        model: on its device, in its dtype.
        layout: as ``adapter`` declares it.
        adapter: which says what is left of a layout that fails.
        name: of the adapter, for messages.
        weights_hash: of the files that the model was loaded from; None: nothing is remembered.

    Raises:
        SelfTestError: where the model isn't what its adapter declares, and nothing is left that it is.
    """
    # Code that came with a checkpoint, and a model from memory, have nothing that tells them apart for certain.
    stock = type(model).__module__.startswith("transformers.")
    key = key_of(model, layout, weights_hash) if stock and weights_hash else None
    passed = None if key is None else passed_before(key)
    # Processes that have a share of the model each test together, or none does.
    if in_every_process(model, passed is not None) and passed is not None:
        smaller = _left(layout, adapter, passed.failed)
        if smaller is not None:
            return Tested(smaller, passed.behaviours)
    tests = try_layouts(model, layout, adapter, name=name)
    found, report = tests[-1]
    if not report.passed:
        # What was declared first says most about the model.
        tests[0][1].raise_if_failed()
    if key is not None:
        remember_passed(key, Passed(report.behaves, tuple(one.failed for _, one in tests[:-1])))
    return Tested(found, report.behaves)


def try_layouts(
    model: PreTrainedModel, layout: Layout, adapter: ArchitectureAdapter, *, name: str = ""
) -> list[tuple[Layout, SelfTestReport]]:
    """Test a layout, then what its adapter leaves of one that failed, until one passes or nothing is left.

    Returns:
        every layout that was tested with its report, the one as declared first; the last one passed, or nothing did.
    """
    from steerkit.engine.sites.selftest import self_test

    found = [(layout, self_test(model, layout, adapter=name))]
    while not found[-1][1].passed:
        last, report = found[-1]
        smaller = adapter.without(last, report.failed)
        if smaller is None or smaller in (one for one, _ in found):
            break
        found.append((smaller, self_test(model, smaller, adapter=name)))
    return found


def _left(layout: Layout, adapter: ArchitectureAdapter, failed: tuple[frozenset[str], ...]) -> Layout | None:
    """What is left of a layout after checks failed, one test after the other."""
    left: Layout | None = layout
    for names in failed:
        left = adapter.without(left, names) if left is not None else None
    return left
