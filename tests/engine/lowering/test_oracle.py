"""The oracle against passes that are written out by hand, and against numbers that can be counted on fingers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Gate, Pointwise
from steerkit.errors import AttachError, PositionError
from steerkit.session.model import LiveModel
from steerkit.testing import oracle_logits, oracle_weights
from steerkit.types import Site
from tests.conftest import assert_clean, tiny_live
from tests.engine.conditions import Given, vectors

IDS = [2, 30, 31, 32, 33, 34]
SITES = ["embed", *(f"blocks.1.{name}" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"))]


def literal_llama(live: LiveModel, ids: list[int], at: Callable[[str, Tensor], Tensor]) -> Tensor:
    """The forward pass of a Llama written out with its own modules, ``[len, vocab]``; ``at`` edits a site's value."""
    model: Any = live.model.model
    tokens, places = torch.tensor([ids]), torch.arange(len(ids))[None]
    with torch.no_grad():
        x = at("embed", model.embed_tokens(tokens)[0])[None]
        rotary = model.rotary_emb(x, position_ids=places)
        mask = torch.full((len(ids), len(ids)), -torch.inf).triu(1)[None, None]
        for layer, block in enumerate(model.layers):
            x = at(f"blocks.{layer}.resid_pre", x[0])[None]
            mixed = block.self_attn(block.input_layernorm(x), position_embeddings=rotary, attention_mask=mask)[0]
            x = x + at(f"blocks.{layer}.attn_out", mixed[0])[None]
            x = at(f"blocks.{layer}.resid_mid", x[0])[None]
            x = x + at(f"blocks.{layer}.mlp_out", block.mlp(block.post_attention_layernorm(x))[0])[None]
            x = at(f"blocks.{layer}.resid_post", x[0])[None]
        logits: Tensor = live.model.lm_head(model.norm(x))[0]
    return logits


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-5)


def at_site(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[str, Tensor], Tensor]:
    return lambda site, x: function(x) if site == name else x


def gate(live: LiveModel, threshold: float, site: str = "blocks.0.resid_pre", **more: Any) -> Gate:
    return Gate(Direction(3 * vectors(live.layout.d_model, 1, 7), Site.parse(site)), threshold, **more)


def unit(live: LiveModel) -> Tensor:
    v = vectors(live.layout.d_model, 1, 7)[0]
    return v / v.norm()


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gemma3_text", "gemma4_text"])
def test_without_a_condition_it_is_the_model(model_type: str) -> None:
    live = tiny_live(model_type)
    with torch.no_grad():
        plain = live.model(input_ids=torch.tensor([IDS])).logits[0]
    for condition in (None, [], Given({}), Given({"blocks.1.resid_mid": Pointwise(lambda x: x)})):
        assert torch.equal(oracle_logits(live, IDS, condition), plain)
    assert_clean(live)


@pytest.mark.parametrize("site", SITES)
def test_an_update_acts_at_its_site_and_at_its_tokens(llama: LiveModel, site: str) -> None:
    d = llama.layout.d_model
    reads, writes, bias = vectors(d, 2, 1) / 8, vectors(d, 2, 2) / 8, vectors(d, 1, 3)[0]

    def literal(x: Tensor) -> Tensor:
        new = x.clone()
        for t in (1, 3, 4):
            new[t] = x[t] + (reads @ x[t]) @ writes + bias
        return new

    condition = Given({site: Affine(reads, writes, bias)}, positions="[1,3,4]")
    found = oracle_logits(llama, IDS, condition)
    assert close(found, literal_llama(llama, IDS, at_site(site, literal)))
    assert not close(found, literal_llama(llama, IDS, lambda _, x: x))


def test_interventions_act_in_the_order_given_and_sites_in_forward_order(llama: LiveModel) -> None:
    """Doubling and shifting don't commute; resid_post of a block comes before resid_pre of the next one."""
    v = vectors(llama.layout.d_model, 1, 1)[0]
    double, shift = Pointwise(lambda x: 2 * x), Affine(bias=v)
    here, before = "blocks.1.resid_pre", "blocks.0.resid_post"
    for condition, expected in (
        ([Given({here: double}), Given({here: shift})], lambda x: 2 * x + v),
        ([Given({here: shift}), Given({here: double})], lambda x: 2 * (x + v)),
        ([Given({here: double}), Given({before: shift})], lambda x: 2 * (x + v)),
        ([Given({before: shift, here: double})], lambda x: 2 * (x + v)),
    ):
        assert close(oracle_logits(llama, IDS, condition), literal_llama(llama, IDS, at_site(here, expected)))


def test_weights_multiply_the_change(llama: LiveModel) -> None:
    """Schedule and factor act on f(x) − x, of an update that isn't linear too; prompt tokens have the first factor."""
    condition = Given(
        {"blocks.1.resid_mid": Pointwise(torch.tanh)},
        schedule=[0.5, 0.25],
        factor=torch.tensor([-2.0], requires_grad=True),
    )
    weights = [-1.0, -1.0, -1.0, -1.0, -0.5, -0.5]  # of a prompt of 3, and generated tokens 0, 1, 2
    assert oracle_weights(llama, IDS, condition, prompt_length=3).tolist() == weights

    def literal(x: Tensor) -> Tensor:
        return x + torch.tensor(weights)[:, None] * (torch.tanh(x) - x)

    found = oracle_logits(llama, IDS, condition, prompt_length=3)
    assert close(found, literal_llama(llama, IDS, at_site("blocks.1.resid_mid", literal)))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", "111111"),
        ("prompt", "111100"),
        ("generated", "000011"),
        ("last", "000100"),
        ("instruction", "011000"),
        ("post_instruction", "000100"),
        ("instruction[-1]", "001000"),
        ("generated[:1]", "000010"),
        ("generated[1:]", "000001"),
        ("generated[7]", "000000"),
        ("-2", "001000"),
        ("[0,-1]", "100100"),
        ("1:-1", "011000"),
        ("prompt[-9:2]", "110000"),
        ("prompt[3:1]", "000000"),
        ("all[-1]", "000001"),
        ("from_token(#31)", "000111"),
        ("from_token(#34)", "000000"),
        ("from_token(#99)", "000000"),
    ],
)
def test_positions_are_what_they_say(llama: LiveModel, positions: str, expected: str) -> None:
    found = oracle_weights(llama, IDS, Given({}, positions=positions), prompt_length=4, instruction=(1, 3))
    assert "".join(str(int(weight)) for weight in found) == expected


def test_a_text_is_found_where_it_is_complete(llama: LiveModel) -> None:
    ids = llama.chat.tokenizer("so </think> it is", add_special_tokens=True)["input_ids"]
    for text, behind in (("</think>", 12), ("so <", 5), ("begin|>so", 3), ("nowhere", len(ids)), ("s", 2)):
        found = oracle_weights(llama, ids, Given({}, positions=f"from_token({text})"))
        assert found.tolist() == [0.0] * behind + [1.0] * (len(ids) - behind), text


def test_without_prompt_length_the_row_is_one_piece(llama: LiveModel) -> None:
    for positions, expected in (("-1", "000001"), ("[0,-2]", "100010"), ("2:", "001111"), ("all", "111111")):
        found = oracle_weights(llama, IDS, Given({}, positions=positions))
        assert "".join(str(int(weight)) for weight in found) == expected
    refused = [
        *(Given({}, positions=role) for role in ("prompt", "generated", "last", "instruction", "post_instruction")),
        Given({}, schedule="exponential(0.5)"),
        Given({"blocks.1.resid_pre": Pointwise(torch.tanh)}, gate=gate(llama, 0, at="prompt")),
    ]
    for intervention in refused:
        with pytest.raises(PositionError, match="prompt_length"):
            oracle_logits(llama, IDS, intervention)
    with pytest.raises(PositionError, match="only 4 tokens"):
        oracle_weights(llama, IDS, Given({}, positions="5"), prompt_length=4)
    assert_clean(llama)


def test_a_token_gate_reads_what_arrives_at_its_site(llama: LiveModel) -> None:
    """Before the edits of its own site, after those of earlier ones; each token decides for itself."""
    v, shift = unit(llama), vectors(llama.layout.d_model, 1, 4)[0]
    first = Given({"blocks.0.resid_post": Affine(bias=shift), "blocks.1.resid_pre": Affine(bias=50 * v)})
    seen: list[list[bool]] = []

    def literal(threshold: float, site: str, x: Tensor) -> Tensor:
        if site == "blocks.0.resid_post":
            return x + shift
        if site == "blocks.1.resid_pre":
            seen.append([bool(token @ v > threshold) for token in x])
            return x + 50 * v
        if site == "blocks.1.mlp_out":
            return torch.stack([token.tanh() if on else token for token, on in zip(x, seen[-1], strict=True)])
        return x

    for threshold in (-0.5, 0.0, 0.5):
        expected = literal_llama(llama, IDS, lambda site, x, at=threshold: literal(at, site, x))  # type: ignore[misc]
        for side in ("above", "below"):
            gated = gate(llama, threshold, "blocks.1.resid_pre", side=side)
            second = Given({"blocks.1.mlp_out": Pointwise(torch.tanh)}, gate=gated)
            assert close(oracle_logits(llama, IDS, [first, second]), expected) == (side == "above")
    assert any(len(set(mask)) == 2 for mask in seen)


@pytest.mark.parametrize("prepass", [False, True])
def test_a_prompt_gate_reads_the_mean_over_its_tokens(llama: LiveModel, prepass: bool) -> None:
    """Steered in the row's own pass, unsteered in an extra one; the prompt is edited only after the extra one."""
    v = unit(llama)
    shift = Given({"embed": Affine(bias=2 * v)})
    arriving: dict[bool, list[float]] = {}

    def spy(steered: bool, site: str, x: Tensor) -> Tensor:
        if site == "blocks.1.resid_pre":
            arriving[steered] = [float(token @ v) for token in x[:4]]
        return x + 2 * v if steered and site == "embed" else x

    for steered in (False, True):
        literal_llama(llama, IDS, lambda site, x, at=steered: spy(at, site, x))  # type: ignore[misc]
    read = arriving[not prepass]
    mean = sum(read[1:3]) / 2
    assert abs(mean - sum(read) / 4) > 0.01 and abs(sum(arriving[prepass][1:3]) / 2 - mean) > 0.01
    for nudge in (-0.01, 0.01):
        condition = [
            shift,
            Given(
                {"blocks.1.resid_post": Pointwise(torch.tanh)},
                gate=gate(llama, mean + nudge, "blocks.1.resid_pre", at="prompt", positions="1:3", prepass=prepass),
            ),
        ]
        edited = 0 if nudge > 0 else len(IDS) if prepass else 2

        def literal(site: str, x: Tensor, last: int = edited) -> Tensor:
            if site == "embed":
                return x + 2 * v
            if site != "blocks.1.resid_post":
                return x
            kept = len(x) - last
            return torch.cat([x[:kept], x[kept:].tanh()])

        assert close(oracle_logits(llama, IDS, condition, prompt_length=4), literal_llama(llama, IDS, literal))


def test_a_gate_behind_what_it_decides_needs_an_extra_pass(llama: LiveModel) -> None:
    update = {"blocks.0.mlp_out": Pointwise(torch.tanh)}
    for at in ("token", "prompt"):
        late = Given(update, gate=gate(llama, 0, "blocks.1.resid_pre", at=at))
        with pytest.raises(AttachError, match="behind"):
            oracle_logits(llama, IDS, late, prompt_length=4)
    early = Given(update, gate=gate(llama, -1e9, "blocks.1.resid_pre", at="prompt", prepass=True))
    always = oracle_logits(llama, IDS, Given(update))
    assert torch.equal(oracle_logits(llama, IDS, early, prompt_length=4), always)
    assert_clean(llama)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_resid_mid_reaches_the_mlp_and_the_residual_branch(model_type: str) -> None:
    """Nothing of an ablated direction is left at resid_mid, nor behind an MLP that doesn't write it."""
    live = tiny_live(model_type)
    v = vectors(live.layout.d_model, 1, 5)[0]
    v = v / v.norm()
    ablation = Affine(reads=-v[None], writes=v[None])
    seen: dict[str, float] = {}

    def spy(name: str) -> Pointwise:
        def look(x: Tensor) -> Tensor:
            seen[name] = max(seen.get(name, 0.0), abs(float(x @ v)))
            return x

        return Pointwise(look)

    here = {f"blocks.1.{name}": spy(name) for name in ("resid_mid", "mlp_out", "resid_post")}
    oracle_logits(live, IDS, [Given({"blocks.1.resid_mid": ablation, "blocks.1.mlp_out": ablation}), Given(here)])
    assert seen["resid_post"] < 1e-5 and seen["mlp_out"] < 1e-5 and seen["resid_mid"] < 1e-5
    before: list[float] = []
    norm: Any = live.layout.blocks[1].resid_mid
    handle = live.model.get_submodule(norm.module).register_forward_pre_hook(
        lambda _, args: before.append(float((args[0] @ v).abs().max()))
    )
    try:
        oracle_logits(live, IDS, Given({"blocks.1.resid_mid": ablation}))
    finally:
        handle.remove()
    assert before[0] < 1e-5


def test_edits_of_a_float32_model_are_computed_in_float64(llama: LiveModel) -> None:
    """A million there and back again loses no bit; a function is handed the model's own dtype."""
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    far = torch.full((llama.layout.d_model,), 1e6)
    condition = [Given({"blocks.1.resid_pre": Affine(bias=far)}), Given({"blocks.1.resid_pre": Affine(bias=-far)})]
    assert close(oracle_logits(llama, IDS, condition), oracle_logits(llama, IDS, None))
    oracle_logits(llama, IDS, Given({"blocks.1.resid_pre": Pointwise(spy)}))
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma3_text", "gemma4_text"])
def test_it_agrees_with_hooks_where_those_are_simple(model_type: str) -> None:
    """What the models of other families make of resid_pre and resid_post, seen by transformers itself."""
    live = tiny_live(model_type)
    v = vectors(live.layout.d_model, 1, 3)[0]
    block = live.model.get_submodule(live.layout.blocks[1].module)

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] + v, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + v}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            expected = live.model(input_ids=torch.tensor([IDS])).logits[0]
    finally:
        handle.remove()
    assert close(oracle_logits(live, IDS, Given({"blocks.1.resid_pre": Affine(bias=v)})), expected)
