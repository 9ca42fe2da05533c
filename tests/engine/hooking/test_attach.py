"""Programs on a model: against a literal forward pass, and off again without a trace."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.api.direction import Direction
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Affine, Intervention, Placement, Pointwise, Update
from steerkit.engine.prompts.batches import position_ids
from steerkit.errors import AttachError, PositionError, SiteError, SteerkitError
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from tests.conftest import assert_clean, tiny_live

IDS = torch.tensor([[2, 30, 31, 32, 33, 34], [2, 40, 41, 42, 43, 44]])


class Updating(Intervention[NoOptions]):
    """An update given as such, for tests."""

    def __init__(self, update: Update) -> None:
        super().__init__(NoOptions())
        self._update = update

    def default_sites(self, layout: Layout) -> list[Site]:
        raise AssertionError("sites are given")

    def update(self, site: Site, layout: Layout) -> Update:
        return self._update


def placed(update: Update, site: str, positions: str | int = "all") -> Placement:
    return Placement(Updating(update), (Site.parse(site),), Positions.parse(positions))


def literal_llama(live: LiveModel, ids: Tensor, edits: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """The forward pass of a Llama written out with its own modules; ``edits`` at sites by name."""
    model: Any = live.model.model

    def at(site: str, x: Tensor) -> Tensor:
        return edits[site](x) if site in edits else x

    places = torch.arange(ids.shape[1])[None].expand(ids.shape)
    x = at("embed", model.embed_tokens(ids))
    rotary = model.rotary_emb(x, position_ids=places)
    mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None]
    for layer, block in enumerate(model.layers):
        x = at(f"blocks.{layer}.resid_pre", x)
        attention = block.self_attn(block.input_layernorm(x), position_embeddings=rotary, attention_mask=mask)[0]
        x = x + at(f"blocks.{layer}.attn_out", attention)
        x = at(f"blocks.{layer}.resid_mid", x)
        x = x + at(f"blocks.{layer}.mlp_out", block.mlp(block.post_attention_layernorm(x)))
        x = at(f"blocks.{layer}.resid_post", x)
    logits: Tensor = live.model.lm_head(model.norm(x))
    return logits


def vectors(live: LiveModel, rank: int, seed: int = 0) -> Tensor:
    return torch.randn(rank, live.layout.d_model, generator=torch.Generator().manual_seed(seed))


SITES = ["embed", *(f"blocks.1.{name}" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"))]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_an_affine_update_is_what_it_says_at_every_site(
    llama: LiveModel, site: str, rank: int, with_bias: bool
) -> None:
    reads = vectors(llama, rank, 1) / 8 if rank else None
    writes = vectors(llama, rank, 2) / 8 if rank else None
    bias = vectors(llama, 1, 3)[0] if with_bias else None

    def definition(x: Tensor) -> Tensor:
        new = x if reads is None or writes is None else x + torch.einsum("btd,rd,re->bte", x, reads, writes)
        return new if bias is None else new + bias

    expected = literal_llama(llama, IDS, {site: definition})
    with llama.steer(placed(Affine(reads, writes, bias), site)):
        steered = llama.forward(IDS).logits
    assert torch.allclose(steered, expected, atol=1e-4, rtol=1e-5)
    plain = literal_llama(llama, IDS, {})
    assert torch.allclose(llama.forward(IDS).logits, plain, atol=1e-4, rtol=1e-5)
    if rank or with_bias:
        assert (steered - plain).abs().max() > 0.01


def test_a_function_acts_at_chosen_tokens_only(llama: LiveModel) -> None:
    def edit(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, 2] = torch.tanh(3 * x[:, 2])
        return new

    expected = literal_llama(llama, IDS, {"blocks.1.resid_mid": edit})
    with llama.steer(placed(Pointwise(lambda x: torch.tanh(3 * x)), "blocks.1.resid_mid", 2)):
        steered = llama.forward(IDS).logits
    assert torch.allclose(steered, expected, atol=1e-4)
    assert torch.equal(steered[:, :2], llama.forward(IDS).logits[:, :2])


def test_interventions_at_one_site_act_in_the_order_given(llama: LiveModel) -> None:
    v = vectors(llama, 1)[0]
    unit = v / v.norm()
    shift = placed(Affine(bias=4 * v), "blocks.1.resid_pre")
    project = placed(Affine(reads=-unit[None], writes=unit[None]), "blocks.1.resid_pre")
    for edits, expected in (
        ((shift, project), lambda x: (x + 4 * v) - ((x + 4 * v) @ unit)[..., None] * unit),
        ((project, shift), lambda x: x - (x @ unit)[..., None] * unit + 4 * v),
    ):
        with llama.steer(*edits):
            steered = llama.forward(IDS).logits
        assert torch.allclose(steered, literal_llama(llama, IDS, {"blocks.1.resid_pre": expected}), atol=1e-4)


def test_nested_steering_equals_steering_at_once(llama: LiveModel) -> None:
    """An inner edit of resid_pre must reach an outer one of resid_mid, whichever hook was registered first."""
    outer = placed(Affine(bias=vectors(llama, 1, 1)[0]), "blocks.1.resid_mid", "[1,2]")
    inner = placed(Affine(bias=vectors(llama, 1, 2)[0]), "blocks.1.resid_pre")
    with llama.steer(outer, inner):
        at_once = llama.forward(IDS).logits
    with llama.steer(outer):
        alone = llama.forward(IDS).logits
        with llama.steer(inner):
            nested = llama.forward(IDS).logits
        assert torch.equal(llama.forward(IDS).logits, alone)
    assert torch.equal(nested, at_once)


def test_ablation_removes_the_span_from_every_site(llama: LiveModel) -> None:
    direction = Direction(vectors(llama, 2), Site.parse("blocks.1.resid_pre"))
    with llama.steer(ablate(direction)):
        seen = llama.capture(["some words to read"], [str(site) for site in llama.layout.sites_of("resid_post")], "all")
        plain = llama.layout.sites_of("resid_post")
    for site in plain:
        mean = seen[(site, Positions("all"))].mean
        assert (direction.vectors.double() @ mean).abs().max() < 1e-4 * mean.norm()


def test_coefficient_zero_attaches_nothing_and_changes_no_bit(llama: LiveModel) -> None:
    direction = Direction(vectors(llama, 1), Site.parse("blocks.1.resid_pre"))
    plain = llama.forward(IDS).logits
    for idle in ((), (add(direction, coefficient=0.0), ablate(direction, coefficient=0.0))):
        with llama.steer(*idle):
            assert_clean(llama)
            assert torch.equal(llama.forward(IDS).logits, plain)


@pytest.mark.parametrize("where", ["unknown site", "wrong width", "not finite", "half of an update", "late failure"])
def test_an_attach_that_fails_leaves_nothing_behind(
    llama: LiveModel, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = placed(Affine(bias=vectors(llama, 1)[0]), "blocks.0.resid_pre")
    width = llama.layout.d_model
    bad = {
        "unknown site": placed(Affine(bias=torch.ones(width)), "blocks.99.resid_pre"),
        "wrong width": placed(Affine(bias=torch.ones(width + 1)), "blocks.1.resid_pre"),
        "not finite": placed(Affine(bias=torch.full((width,), torch.nan)), "blocks.1.resid_pre"),
        "half of an update": placed(Affine(reads=torch.ones(1, width)), "blocks.1.resid_pre"),
        "late failure": placed(Affine(bias=torch.ones(width)), "blocks.1.resid_pre"),
    }[where]
    expected: type[Exception] = SiteError if where == "unknown site" else AttachError
    if where == "late failure":
        expected = RuntimeError
        # What goes into a block is what comes out of the one before.
        block = llama.model.get_submodule("model.layers.0")

        class Refusing(OrderedDict[int, object]):
            def __setitem__(self, key: int, value: object) -> None:
                raise RuntimeError("no hook here")

        monkeypatch.setattr(block, "_forward_hooks", Refusing())
    with llama.steer(good):
        steered = llama.forward(IDS).logits
        with pytest.raises(expected), llama.steer(bad, mode="hook"):
            raise AssertionError("the body must not run")
        monkeypatch.undo()
        assert torch.equal(llama.forward(IDS).logits, steered)
    assert_clean(llama)


def test_an_exception_in_the_body_or_in_a_pass_leaves_nothing_behind(llama: LiveModel) -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError("in the middle of a pass")

    plain = llama.forward(IDS).logits
    for body in (lambda: llama.forward(IDS), lambda: llama.generate("some words", max_new_tokens=3)):
        with pytest.raises(ZeroDivisionError), llama.steer(placed(Pointwise(fail), "blocks.1.resid_mid", "[0]")):
            body()
        assert_clean(llama)
    assert torch.equal(llama.forward(IDS).logits, plain)


def test_positions_that_nobody_knows_are_refused(llama: LiveModel) -> None:
    v = Affine(bias=vectors(llama, 1)[0])
    with (
        llama.steer(placed(v, "blocks.1.resid_pre", "generated")),
        pytest.raises(PositionError, match="prompt_lengths"),
    ):
        llama.forward(IDS)
    with llama.steer(placed(v, "blocks.1.resid_pre", "generated")):
        known = llama.forward(IDS, prompt_lengths=[4, 4]).logits
    with llama.steer(placed(v, "blocks.1.resid_pre", "[4,5]")):
        assert torch.equal(known, llama.forward(IDS).logits)


ROLES = ["all", "prompt", "generated", "last", "instruction", "post_instruction", "generated[:2]", "-3", "prompt[1:4]"]
PROMPTS = ["Tell me", "A rather longer prompt than the other one", "Words"]


@pytest.mark.parametrize("positions", ROLES)
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "qwen3_next", "gemma4_text"])
def test_cached_generation_equals_uncached_teacher_forcing(model_type: str, positions: str) -> None:
    """Every generated token is the argmax of one uncached, unpadded pass over the whole sequence."""
    live = tiny_live(model_type)
    middle = live.layout.n_layers // 2
    update = Affine(bias=4 * vectors(live, 1)[0])
    edits = [
        placed(update, f"blocks.{middle}.resid_pre", positions),
        placed(update, f"blocks.{middle}.resid_mid", positions),
    ]
    with live.steer(*edits):
        cached = live.complete(PROMPTS, max_new_tokens=6)
        uncached = live.complete(PROMPTS, max_new_tokens=6, use_cache=False)
    assert cached == uncached
    for prompt, ids in zip(PROMPTS, cached, strict=True):
        rendered = live.chat.render(prompt)
        start, stop = rendered.instruction or (0, 0)
        length = len(rendered.token_ids)
        explicit = {
            "instruction": f"{start}:{stop}",
            "post_instruction": f"{stop}:{length}",
            "generated": f"{length}:{length + 9}",
            "generated[:2]": f"{length}:{length + 2}",
            "last": f"[{length - 1}]",
            "-3": f"[{length - 3}]",
            "prompt": f"0:{length}",
            "prompt[1:4]": "1:4",
        }.get(positions, positions)
        sequence = torch.tensor([[*rendered.token_ids, *ids]])
        literal = [
            placed(update, f"blocks.{middle}.resid_pre", explicit),
            placed(update, f"blocks.{middle}.resid_mid", explicit),
        ]
        with live.steer(*literal), torch.no_grad():
            logits = live.forward(sequence, use_cache=False).logits[0, length - 1 : -1]
        assert logits.argmax(-1).tolist()[: len(ids)] == ids
    assert_clean(live)


@pytest.mark.parametrize("positions", ["all", "last", "-2", "prompt[1:3]", "generated"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_moe"])
def test_left_and_right_padding_give_the_same_logits(model_type: str, positions: str) -> None:
    live = tiny_live(model_type)
    rows = [[2, 30, 31, 32, 33], [2, 40, 41], [2, 50, 51, 52]]
    prompts, width = [3, 2, 3], 5
    logits = {}
    for side in ("left", "right"):
        ids, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
        for index, row in enumerate(rows):
            place = slice(width - len(row), None) if side == "left" else slice(0, len(row))
            ids[index, place], mask[index, place] = torch.tensor(row), 1
        with live.steer(placed(Affine(bias=3 * vectors(live, 1)[0]), "blocks.1.resid_pre", positions)), torch.no_grad():
            found = live.forward(ids, mask, prompt_lengths=prompts).logits
        logits[side] = [found[index][mask[index].bool()] for index in range(3)]
    for left, right in zip(logits["left"], logits["right"], strict=True):
        assert torch.allclose(left, right, atol=1e-4, rtol=1e-4)


def test_beams_and_return_sequences_follow_their_prompt(llama: LiveModel) -> None:
    """A batch gives each prompt the beams that it gets alone."""
    edit = placed(Affine(bias=4 * vectors(llama, 1)[0]), "blocks.1.resid_pre", "instruction")
    with llama.steer(edit):
        together = llama.complete(PROMPTS, max_new_tokens=4, num_beams=3, num_return_sequences=2)
        alone = [
            ids
            for prompt in PROMPTS
            for ids in llama.complete([prompt], max_new_tokens=4, num_beams=3, num_return_sequences=2)
        ]
    assert together == alone
    assert len(together) == 2 * len(PROMPTS)


def test_position_ids_start_at_zero_after_left_padding() -> None:
    assert position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_a_bfloat16_stream_stays_bfloat16_beside_float32_norms() -> None:
    """A float32 vector would turn the whole stream into float32 without a word."""
    from steerkit.engine.tiny.models import tiny_model
    from steerkit.session import wrap

    model = tiny_model("llama", dtype=torch.bfloat16)
    live = wrap(model, self_test=False)
    seen: list[torch.dtype] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    edits = [
        placed(Affine(bias=vectors(live, 1)[0]), "blocks.1.attn_out"),
        placed(Pointwise(spy), "blocks.1.resid_mid"),
    ]
    with live.steer(*edits):
        assert live.forward(IDS).logits.dtype == torch.bfloat16
    assert seen == [torch.bfloat16]


def test_an_end_that_moves_is_never_counted_from(llama: LiveModel) -> None:
    """Under transformers' own generate nobody says where prompts end; -1 would be another token at each step."""
    mask = torch.ones_like(IDS)
    arguments = {"attention_mask": mask, "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    update = Affine(bias=4 * vectors(llama, 1)[0])
    with llama.steer(placed(update, "blocks.1.resid_pre", -1)), pytest.raises(PositionError, match="isn't known"):
        llama.hf_model.generate(IDS, **arguments)
    with llama.steer(placed(update, "blocks.1.resid_pre", 1)):
        cached = llama.hf_model.generate(IDS, use_cache=True, **arguments)
        uncached = llama.hf_model.generate(IDS, use_cache=False, **arguments)
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, llama.hf_model.generate(IDS, **arguments))


def test_what_is_no_intervention_is_refused_before_anything_happens(llama: LiveModel) -> None:
    edits = [placed(Affine(bias=vectors(llama, 1)[0]), "blocks.1.resid_pre")]
    with pytest.raises(AttachError, match="unpack a list"), llama.steer(edits):  # type: ignore[arg-type]
        raise AssertionError("the body must not run")


def test_contexts_may_close_in_any_order(llama: LiveModel) -> None:
    """A generator can hold one open past the end of another; each takes off its own and nothing else."""
    first = llama.steer(placed(Affine(bias=vectors(llama, 1, 1)[0]), "blocks.0.resid_pre"))
    second = llama.steer(placed(Affine(bias=vectors(llama, 1, 2)[0]), "blocks.1.resid_pre"))
    plain = llama.forward(IDS).logits
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    left = llama.forward(IDS).logits
    second.__exit__(None, None, None)
    with llama.steer(placed(Affine(bias=vectors(llama, 1, 2)[0]), "blocks.1.resid_pre")):
        assert torch.equal(llama.forward(IDS).logits, left)
    assert_clean(llama)
    assert torch.equal(llama.forward(IDS).logits, plain)


def test_a_coefficient_is_any_number_and_nothing_else(llama: LiveModel) -> None:
    import numpy as np

    direction = Direction(vectors(llama, 1), Site.parse("blocks.1.resid_pre"))
    site = Site.parse("blocks.1.resid_pre")
    for number in (2, 2.0, np.float32(2), np.int64(2), [np.float64(2)]):
        update = add(direction, coefficient=number).intervention.update(site, llama.layout)  # type: ignore[arg-type]
        assert isinstance(update, Affine) and update.bias is not None
        assert torch.equal(update.bias, 2 * direction.vectors[0])
    for wrong in ("2", None, True, float("nan")):
        with pytest.raises(SteerkitError, match="coefficient"):
            add(direction, coefficient=wrong)  # type: ignore[arg-type]
        with pytest.raises(SteerkitError, match="coefficient"):
            ablate(direction, coefficient=wrong)  # type: ignore[arg-type]
