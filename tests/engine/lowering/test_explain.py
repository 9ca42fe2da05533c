"""What ``explain`` tells a reader: every update once, why, at what cost, in a table that fits a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Intervention, Placement, Pointwise, Update
from steerkit.engine.lowering.edits import MODES, Mode
from steerkit.engine.lowering.explain import WIDTH
from steerkit.session import ablate, add, gate
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import tiny_live

D_MODEL, LAYERS = 32, 3


def direction(name: str = "refusal", seed: int = 0, rank: int = 1) -> Direction:
    vectors = torch.randn(rank, D_MODEL, generator=torch.Generator().manual_seed(seed))
    return Direction(vectors, Site("resid_pre", 1), name=name)


def many(live: LiveModel, n: int = 30) -> list[Placement]:
    return [add(direction(f"v{i}", i), sites=f"blocks.{i % live.layout.n_layers}.resid_post") for i in range(n)]


class Square(Intervention[NoOptions]):
    """Not affine, and at every writer's output."""

    def default_sites(self, layout: object) -> Sequence[Site]:
        return [Site("mlp_out", 0)]

    def update(self, site: Site, layout: object) -> Update | None:
        return Pointwise(lambda x: x + x**2)


def everything(live: LiveModel) -> list[list[Placement]]:
    early = gate(direction("mood", 3), above=0.5, at="prompt", positions="instruction", prepass=True)
    late = gate(direction("a mood with a very long name indeed", 4), below=-1.25, site="embed")
    return [
        [ablate(direction())],
        many(live),
        [ablate(direction(), gate=early)],
        [add(direction(), positions="from_token(</think>)", schedule="exponential(0.97)", gate=late)],
        [add(direction(), coefficient=2.0), add(direction(), coefficient=-2.0)],
        [Placement(Square(NoOptions()))],
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_moe"])
def test_a_table_fits_a_terminal_and_every_update_is_in_it(model_type: str, mode: Mode) -> None:
    live = tiny_live(model_type)
    for interventions in everything(live):
        explained = live.explain(*interventions, mode=mode, expected_tokens=50)
        lines = str(explained).splitlines()
        assert max(map(len, lines)) <= WIDTH, (mode, interventions)
        assert not any(line != line.rstrip() for line in lines)
        updates = sum(len(one.sites_on(live.layout)) for one in interventions)
        assert sum(row.count for row in explained.rows if not row.intervention.startswith("gate ")) == updates
        assert json.loads(json.dumps(explained.to_json()))["rows"][0]["intervention"]


def test_layers_share_a_row_and_reasons_stand_once() -> None:
    explained = tiny_live("llama").explain(ablate(direction()), expected_tokens=40)
    embed, attention, mlp = explained.rows
    assert (embed.sites, embed.became, embed.where) == ("embed", "hook", "model.embed_tokens (output)")
    assert "table of 288 rows for 40" in embed.why
    assert (attention.sites, attention.became, attention.count) == ("blocks.0-2.attn_out", "folded", LAYERS)
    assert attention.where == "model.layers.0-2.self_attn.o_proj (weight)" and not attention.why
    assert (mlp.became, mlp.where, mlp.count) == ("hook", "model.layers.0-2.mlp (output)", LAYERS)
    # Per token and layer: a scalar product and a multiple that is subtracted; two values read, one written.
    assert (mlp.flops_per_token, mlp.bytes_per_token) == (LAYERS * 4 * D_MODEL, LAYERS * 3 * D_MODEL * 4)
    assert (attention.flops_per_token, attention.bytes_per_token) == (0, 0)
    text = str(explained)
    assert text.count("pays from 64 tokens on, and 40 are expected") == 1
    assert "(2) pays from" in text and "  (2)\n" in text
    assert "4 modules hooked, 3 with other parameters; 512 FLOP and 1,536 bytes per token." in text


def test_bytes_are_those_of_the_models_dtype() -> None:
    from steerkit.engine.tiny.models import tiny_model
    from steerkit.session import wrap

    half = wrap(tiny_model("llama").to(torch.bfloat16), self_test=False)
    (narrow,) = half.explain(add(direction()), mode="hook").rows
    (wide,) = tiny_live("llama").explain(add(direction()), mode="hook").rows
    assert narrow.flops_per_token == wide.flops_per_token == D_MODEL
    assert narrow.bytes_per_token is not None and wide.bytes_per_token == 2 * narrow.bytes_per_token


@pytest.mark.parametrize("mode", ["auto", "hook"])
def test_what_becomes_one_update_is_one_row(mode: Mode) -> None:
    live = tiny_live("llama")
    explained = live.explain(*many(live), mode=mode)
    assert [(row.count, row.sites) for row in explained.rows] == [
        (10, f"blocks.{layer}.resid_post") for layer in range(LAYERS)
    ]
    assert explained.rows[0].intervention == "add v0, v3, v6 and 7 more"
    assert "one update with" not in str(explained)
    assert all(row.flops_per_token == (0 if mode == "auto" else D_MODEL) for row in explained.rows)


def test_a_table_of_many_directions_groups_them_by_intervention() -> None:
    """A direction for each layer of a deep model is a row, not one for each."""
    from steerkit.engine.tiny.models import tiny_model
    from steerkit.session import wrap

    live = wrap(tiny_model("llama", n_layers=20), self_test=False)
    interventions = [add(direction(f"v{i}", i), sites=f"blocks.{i}.resid_post") for i in range(20)]
    (row,) = live.explain(*interventions).rows
    assert (row.intervention, row.sites, row.count) == ("add v0, v1, v2 and 17 more", "blocks.0-19.resid_post", 20)
    assert row.where == "model.layers.0-19.mlp.down_proj (bias)"
    assert len(live.explain(*interventions[:16]).rows) == 16


def test_a_norm_behind_the_projection_is_the_reason() -> None:
    rows = {row.sites: row for row in tiny_live("gemma3_text").explain(ablate(direction()), mode="fold").rows}
    assert rows["embed"].became == "folded"
    assert "norm follows" in rows["blocks.0-2.mlp_out"].why
    assert rows["blocks.0-2.mlp_out"].where == "model.layers.0-2.post_feedforward_layernorm (output)"


def test_experts_are_named_with_their_layers() -> None:
    rows = {row.sites: row for row in tiny_live("qwen3_moe").explain(ablate(direction()), mode="fold").rows}
    assert rows["blocks.0.mlp_out"].where == "model.layers.0.mlp.down_proj (weight)"
    assert rows["blocks.1-2.mlp_out"].where == "model.layers.1-2.mlp.experts.down_proj"


def test_reasons_with_paths_are_one_for_all_layers() -> None:
    from steerkit.engine.tiny.models import tiny_model
    from steerkit.session import wrap

    class Quantised(torch.nn.Linear):
        """Stands for a layer whose weight isn't what it multiplies with."""

    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj.__class__ = Quantised
    rows = wrap(model, self_test=False).explain(ablate(direction()), mode="fold").rows
    (row,) = (row for row in rows if row.sites.endswith("mlp_out"))
    assert row.count == LAYERS
    assert row.why.startswith("model.layers.0-2.mlp.down_proj is a Quantised, not a plain Linear")


def test_what_is_dropped_says_so() -> None:
    live = tiny_live("llama")
    (row,) = live.explain(add(direction(), coefficient=2.0), add(direction(), coefficient=-2.0)).rows
    assert (row.became, row.where, row.count) == ("dropped", "", 2) and "cancels" in row.why
    again = live.explain(ablate(direction()), ablate(direction(), sites=["blocks.1.resid_pre"]), mode="fold").rows[-1]
    assert (again.sites, again.became) == ("blocks.1.resid_pre", "dropped") and "nothing of it" in again.why
    assert str(live.explain(add(direction(), coefficient=0.0))).startswith("Nothing is attached")


def test_a_gate_is_told_once_with_what_it_reads() -> None:
    live = tiny_live("llama")
    explained = live.explain(ablate(direction(), gate=gate(direction("mood", 1), above=0.5, site="embed")), mode="fold")
    reads, *rows = explained.rows
    assert (reads.intervention, reads.became, reads.sites) == ("gate mood above 0.5", "hook, reads", "embed")
    assert (reads.flops_per_token, reads.bytes_per_token) == (2 * D_MODEL, 4 * D_MODEL)
    assert {(row.when, row.gate) for row in rows} == {("all", "mood above 0.5 at embed")}
    assert {row.why for row in rows} == {"only what acts at every token alike can be folded"}
    text = str(explained)
    assert text.count("mood above 0.5 at embed") == 1 and "all if (1)" in text
    assert "which tokens" in text and "extra pass" not in text
    before = gate(direction("mood", 1), above=0.5, at="prompt", positions="instruction", prepass=True)
    text = str(live.explain(ablate(direction(), gate=before)))
    assert "hook, reads" not in text and "One extra pass over the prompts" in text
    assert "mean over instruction of the prompt" in text


def test_a_function_costs_what_nobody_knows_and_is_not_free() -> None:
    live = tiny_live("llama")
    (row,) = live.explain(Square(NoOptions())).rows
    assert (row.flops_per_token, row.bytes_per_token) == (None, None) and row.why == "it isn't affine"
    assert "what that costs nobody knows" in str(live.explain(Square(NoOptions())))
    both = str(live.explain(Square(NoOptions()), add(direction()), mode="hook"))
    assert f"at least {D_MODEL} FLOP" in both


def test_what_stands_behind_a_hook_says_so() -> None:
    live = tiny_live("llama")
    first = add(direction("first"), sites="blocks.1.mlp_out", positions="generated")
    rows = live.explain(first, add(direction("second"), sites="blocks.1.mlp_out"), mode="fold").rows
    assert "before it" in next(row.why for row in rows if "second" in row.intervention)


def test_a_bias_where_there_was_none_is_told() -> None:
    shift = add(direction(), sites=["blocks.0.attn_out", "blocks.1.resid_pre"])
    (note,) = tiny_live("qwen3").explain(shift).notes
    assert note == "2 modules have no bias of their own and get one: the product adds it as it goes."
    assert tiny_live("llama").explain(shift).notes == (), "this one has biases of its own"


def test_interventions_are_named_as_recipes_name_them() -> None:
    """Also where their class is called otherwise; one that was made by hand is called what its class says."""
    from steerkit.session import intervention
    from steerkit.session.plugins import installed

    direction = Direction(torch.ones(1, 32), "blocks.0.resid_pre", name="d", reference_mean=torch.zeros(32))
    for name in installed().names("intervention"):
        made = intervention(name, direction, **({"value": 1.0} if name == "set_projection" else {}))
        assert made.called == name and str(made) == f"{name} d"
        assert str(Placement(made.intervention)) == f"{name} d"

    from tests.engine.conditions import Updates

    class GoesItsOwnWay(Updates):
        pass

    made = Placement(GoesItsOwnWay({}))
    assert str(made) == "goes_its_own_way"
    assert str(replace(made, called="own-way")) == "own-way"
