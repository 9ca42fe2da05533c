"""What is left of a layout that fails is tested in its place, and remembered with what the model lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.api.architecture import Layout
from steerkit.engine.sites import selftest
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.engine.sites.tested import require_tested, try_layouts
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import SelfTestError
from steerkit_architectures._llama import LlamaAdapter


class Doubtful(LlamaAdapter):
    """Declares heads that are cut wrongly and a soft cap that isn't there, and gives up one after the other."""

    def __init__(self, gives_up: bool = True) -> None:
        self.gives_up = gives_up

    def layout(self, model: Any) -> Layout:
        """The model's, with two faults."""
        layout = super().layout(model)
        blocks = []
        for block in layout.blocks:
            assert block.heads is not None
            blocks.append(replace(block, heads=replace(block.heads, n_heads=2, d_head=16)))
        return replace(layout, blocks=tuple(blocks), softcap=2.0)

    def without(self, layout: Layout, failed: frozenset[str]) -> Layout | None:
        """The soft cap goes first, then the heads."""
        if not self.gives_up:
            return layout
        if "logits" in failed:
            return replace(layout, softcap=None)
        if "heads_apart" in failed:
            return replace(layout, blocks=tuple(replace(block, heads=None) for block in layout.blocks))
        return None


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))


def test_it_is_tested_until_one_passes() -> None:
    model, adapter = tiny_model("llama"), Doubtful()
    tests = try_layouts(model, adapter.layout(model), adapter)
    assert [report.passed for _, report in tests] == [False, False, True]
    assert tests[0][1].failed == {"heads_apart", "logits", "edited_resid_post"} and tests[1][1].failed == {
        "heads_apart"
    }
    assert tests[-1][0].blocks[0].heads is None and tests[-1][0].softcap is None


def test_what_was_left_is_remembered_and_not_tested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = tiny_model("llama"), Doubtful()
    first = require_tested(model, adapter.layout(model), adapter, name="doubtful", weights_hash="sha256:a")
    assert first.layout.blocks[0].heads is None and first.behaviours == Behaviours()
    monkeypatch.setattr(selftest, "self_test", lambda *_, **__: pytest.fail("It is tested again."))
    again = require_tested(model, adapter.layout(model), adapter, name="doubtful", weights_hash="sha256:a")
    assert again == first


def test_where_nothing_is_left_the_first_failure_is_told() -> None:
    model, adapter = tiny_model("llama"), Doubtful(gives_up=False)
    with pytest.raises(SelfTestError, match=r"heads_apart at blocks\.0\.head_out"):
        require_tested(model, adapter.layout(model), adapter, name="doubtful", weights_hash="sha256:a")


def test_behaviours_are_in_what_the_report_says_of_itself() -> None:
    model = tiny_model("llama")
    report = selftest.self_test(model, LlamaAdapter().layout(model))
    assert [check.name for check in report.behaviours] == ["causal", "left_padding", "cached"]
    assert report.behaves == Behaviours() and [one["passed"] for one in report.to_dict()["behaviours"]] == [True] * 3
