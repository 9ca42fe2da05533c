"""A layout as JSON: nothing is lost, and nothing that isn't a layout is taken for one."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from steerkit.api.architecture import Block, Heads, Layout, Tap, Writer
from steerkit.errors import ArtifactError
from steerkit.sources import TINY_MODEL_TYPES
from tests.architectures.conftest import built

FULL = Layout(
    d_model=8,
    base="model",
    embed=Tap("model.drop", "input", keyword="x", factor=0.1),
    blocks=(
        Block(
            module="model.h.0",
            writers=(
                Writer("attn_out", Tap("model.h.0.attn", factor=1 / 3), ("model.h.0.attn.o",)),
                Writer(
                    "mlp_out",
                    Tap("model.h.0.mlp", flat_within="model.h.0"),
                    (),
                    "routed",
                    ("model.h.0.experts",),
                    ("model.h.0.experts_bias",),
                ),
            ),
            resid_mid=Tap("model.h.0.ln", "input"),
            heads=Heads(Tap("model.h.0.attn.o", "input"), 2, 4),
            scale="model.h.0.scale",
            start=Tap("model.h.0.ln0"),
            keeps=(0.1 + 0.2, 1, 2.5),
        ),
        Block("model.h.1", (), not_a_sum="a norm stands in between"),
    ),
    final_norm="model.norm",
    head="lm_head",
    embed_is_first_resid_pre=False,
    embed_weight="model.wte",
    softcap=30,
    logit_scale=1e-17,
    notes=("Text only: …",),
    shares_beginning=False,
    begins_at_block=False,
    between=("model.out",),
    embed_beside=("model.wpe",),
)
"""Every field at another value than its own default, in the layout or somewhere in it."""


def through_json(layout: Layout) -> Layout:
    return Layout.from_dict(json.loads(json.dumps(layout.to_dict())))


def test_every_field_of_every_class_comes_back() -> None:
    assert through_json(FULL) == FULL
    for kind, held in ((Layout, FULL), (Block, FULL.blocks[0]), (Writer, FULL.blocks[0].writers[1]), (Tap, FULL.embed)):
        left = {field.name for field in fields(kind) if getattr(held, field.name) == field.default}
        # What stands at another place of it.
        assert left <= {"not_a_sum", "projections", "flat_within"}


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_declared_layouts_come_back(model_type: str) -> None:
    _, layout = built(model_type)
    again = through_json(layout)
    assert again == layout and hash(again) == hash(layout)


def spoilt(**changed: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(FULL.to_dict())), **changed}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "not a mapping"),
        (None, "not a mapping"),
        ({key: value for key, value in spoilt().items() if key != "head"}, "head"),
        (spoilt(more=1), "more"),
        (spoilt(d_model=8.5), r"layout\.d_model is 8\.5"),
        (spoilt(d_model=True), r"layout\.d_model is true"),
        (spoilt(softcap="30"), r"layout\.softcap"),
        (spoilt(logit_scale=None), r"layout\.logit_scale"),
        (spoilt(notes="one"), r"layout\.notes"),
        (spoilt(notes=[1]), r"layout\.notes\[0\]"),
        (spoilt(blocks={}), r"layout\.blocks"),
        (spoilt(embed={**FULL.embed.__dict__, "side": "within"}), r"layout\.embed\.side is \"within\""),
        (spoilt(embed_is_first_resid_pre=1), r"layout\.embed_is_first_resid_pre is 1"),
    ],
)
def test_what_is_no_layout_says_where(values: Any, told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        Layout.from_dict(values)
