"""That what is declared as weighed by a router is all that a contribution is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerkit.api.architecture import Layout, Writer
from steerkit.engine.sites.selftest import self_test
from tests.engine.conditions import differential_model


def with_writers(layout: Layout, **changes: Any) -> Layout:
    """A layout whose experts are declared otherwise."""

    def writer(one: Writer) -> Writer:
        return replace(one, **changes) if one.weighed or one.weighed_rows else one

    blocks = (replace(block, writers=tuple(map(writer, block.writers))) for block in layout.blocks)
    return replace(layout, blocks=tuple(blocks))


def outcome(model: Any, layout: Layout) -> set[str]:
    """Names of the checks that fail."""
    return {check.name for check in self_test(model, layout).checks if not check.passed}


@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe", "gpt_oss"])
def test_experts_are_proven_and_their_parameters_come_back(model_type: str) -> None:
    live = differential_model(model_type)
    before = {name: (value, value.clone()) for name, value in live.model.named_parameters()}
    report = self_test(live.model, live.layout)
    (check,) = (check for check in report.checks if check.name == "weighed")
    assert report.passed and check.site.endswith("mlp_out")
    for name, value in live.model.named_parameters():
        assert value is before[name][0] and torch.equal(value, before[name][1])


def test_what_is_left_out_is_caught() -> None:
    shared, stacked = differential_model("qwen2_moe"), differential_model("gpt_oss")
    (experts, *_) = next(writer.weighed for writer in shared.layout.blocks[1].writers if writer.weighed)
    assert outcome(shared.model, with_writers(shared.layout, weighed=(experts,))) == {"weighed"}
    (rows, _) = stacked.layout.blocks[0].writers[1].weighed_rows
    assert outcome(stacked.model, with_writers(stacked.layout, weighed_rows=(rows,))) == {"weighed"}


def test_what_isnt_there_is_told_before_anything_runs() -> None:
    live, flat = differential_model("gpt_oss"), differential_model("opt")
    missing = with_writers(live.layout, weighed_rows=("model.layers.0.mlp.experts.up",))
    assert outcome(live.model, missing) == {"modules"}
    scaled = differential_model("scaled")
    first, *others = scaled.layout.blocks
    short = replace(scaled.layout, blocks=(replace(first, keeps=first.keeps[:2]), *others))
    assert outcome(scaled.model, short) == {"modules"}
    first, *others = flat.layout.blocks
    attention, mlp = first.writers
    elsewhere = replace(mlp, tap=replace(mlp.tap, flat_within="model.decoder.layer.0"))
    wrong = replace(flat.layout, blocks=(replace(first, writers=(attention, elsewhere)), *others))
    assert outcome(flat.model, wrong) == {"modules"}
