"""The self-test finds what is wrong: one planted fault for every check, and the check that must find it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.api.architecture import Block, Heads, Layout, Tap, Writer
from steerkit.engine.sites.selftest import SelfTestReport, self_test
from steerkit.errors import SelfTestError
from steerkit.sources import TINY_MODEL_TYPES
from tests.architectures.conftest import built

CHECKS = [
    "modules",
    "base",
    "sites",
    "zero_update",
    "block_sum",
    "resid_chain",
    "embed",
    "embed_weight",
    "resid_mid",
    "projections",
    "weighed",
    "head_out",
    "heads_apart",
    "mixing",
    "logits",
    "edited_resid_post",
    "writers_covered",
]


def failed(report: SelfTestReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def changed(layout: Layout, layer: int, change: Callable[[Block], Block]) -> Layout:
    blocks = list(layout.blocks)
    blocks[layer] = change(blocks[layer])
    return replace(layout, blocks=tuple(blocks))


def writer_at(layout: Layout, layer: int, index: int, **declared: Any) -> Layout:
    def change(block: Block) -> Block:
        writers = list(block.writers)
        writers[index] = replace(writers[index], **declared)
        return replace(block, writers=tuple(writers))

    return changed(layout, layer, change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_it_passes_and_says_what_it_measured(model_type: str, dtype: torch.dtype) -> None:
    if model_type == "yi" and dtype != torch.float32:
        pytest.skip("64,000 tokens in a dtype without fast kernels; llama has the same blocks")
    model, layout = built(model_type, dtype=dtype)
    report = self_test(model, layout, adapter="named")
    report.raise_if_failed()
    assert [check.name for check in report.checks] == CHECKS
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["adapter"] == "named" and plain["model_type"] == model.config.model_type and plain["passed"] is True
    assert {"name", "max_abs_error", "passed"} <= plain["checks"][0].keys()
    assert plain["sites"][0] == {"site": "embed", "module": layout.embed.module, "side": layout.embed.side}
    assert len(plain["sites"]) == len(layout.sites())


@pytest.mark.parametrize("seed", range(5))
def test_other_tokens_and_vectors_pass_too(seed: int) -> None:
    model, layout = built("gemma4_text")
    assert self_test(model, layout, seed=seed).passed


# Wrong layouts of right models


def test_a_missing_module() -> None:
    model, layout = built("llama")
    wrong = changed(layout, 1, lambda block: replace(block, heads=Heads(Tap("model.layers.1.attn.out", "input"), 4, 8)))
    report = self_test(model, wrong)
    assert failed(report) == ["modules"] and "model.layers.1.attn.out" in report.checks[-1].site


def test_a_missing_buffer() -> None:
    model, layout = built("llama")
    report = self_test(model, changed(layout, 0, lambda block: replace(block, scale="model.layers.0.layer_scalar")))
    assert failed(report) == ["modules"] and report.checks[-1].site == "model.layers.0.layer_scalar"


def test_a_module_that_the_pass_never_meets() -> None:
    model, layout = built("gemma4")
    report = self_test(model, writer_at(layout, 2, 1, tap=Tap("model.vision_tower.patch_embedder", "output")))
    assert failed(report) == ["sites"] and report.checks[-1].site == "blocks.2.mlp_out"
    assert "0 times" in report.checks[-1].detail


def test_heads_of_another_width() -> None:
    model, layout = built("llama")
    heads = Heads(Tap("model.layers.2.self_attn.o_proj", "input"), 4, 9)
    report = self_test(model, changed(layout, 2, lambda block: replace(block, heads=heads)))
    assert failed(report) == ["sites"] and report.checks[-1].site == "blocks.2.head_out"


def test_attention_before_its_post_norm() -> None:
    """The classic mistake from Gemma 2 on: what ``self_attn`` gives is not what is added."""
    model, layout = built("gemma2")
    report = self_test(model, writer_at(layout, 1, 0, tap=Tap("model.layers.1.self_attn", "output")))
    assert failed(report) == ["block_sum", "resid_mid", "writers_covered"]
    check = next(check for check in report.checks if check.name == "block_sum")
    assert check.site == "blocks.1.resid_post"
    assert check.max_abs_error is not None and check.tolerance is not None
    assert check.max_abs_error > 1e4 * check.tolerance


def test_a_missing_third_writer() -> None:
    model, layout = built("gemma4_text")
    report = self_test(model, changed(layout, 0, lambda block: replace(block, writers=block.writers[:2])))
    assert failed(report) == ["block_sum", "writers_covered"]


def test_a_missing_scale() -> None:
    model, layout = built("gemma4_text")
    assert failed(self_test(model, changed(layout, 2, lambda block: replace(block, scale=None)))) == ["block_sum"]


def test_blocks_in_the_wrong_order() -> None:
    model, layout = built("llama")
    first, second, third = layout.blocks
    report = self_test(model, replace(layout, blocks=(first, third, second)))
    assert {"resid_chain", "logits"} <= set(failed(report)) and "block_sum" not in failed(report)


def test_an_embedding_from_before_its_scaling() -> None:
    model, layout = built("gemma3_text")

    def unscaled(tokens: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output / 2

    handle = model.model.embed_tokens.register_forward_hook(unscaled)
    between = model.model.layers[0].register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
    try:
        assert failed(self_test(model, layout)) == ["embed"]
    finally:
        handle.remove()
        between.remove()


def test_an_embedding_that_something_else_reads() -> None:
    model, layout = built("gemma4_text")
    report = self_test(model, replace(layout, embed_is_first_resid_pre=True))
    assert failed(report) == ["embed"]


def test_another_weight_than_the_embeddings() -> None:
    model, layout = built("llama")
    assert failed(self_test(model, replace(layout, embed_weight="lm_head"))) == ["embed_weight"]


def test_the_wrong_norm_for_the_middle() -> None:
    model, layout = built("llama")
    swapped = Tap("model.layers.1.input_layernorm", "input")
    report = self_test(model, changed(layout, 1, lambda block: replace(block, resid_mid=swapped)))
    assert failed(report) == ["resid_mid"] and "blocks.1.resid_mid" in report.checks[8].site


def test_a_projection_behind_which_something_stands() -> None:
    model, layout = built("gemma2")
    report = self_test(model, writer_at(layout, 0, 0, projections=("model.layers.0.self_attn.o_proj",)))
    assert failed(report) == ["projections"]


def test_one_projection_of_several() -> None:
    model, layout = built("qwen2_moe")
    shared = ("model.layers.1.mlp.shared_expert.down_proj",)
    assert failed(self_test(model, writer_at(layout, 1, 1, projections=shared))) == ["projections"]


@pytest.mark.parametrize("module", ["q_proj", "v_proj"])
def test_heads_from_before_tokens_are_mixed(module: str) -> None:
    model, layout = built("qwen2", num_key_value_heads=4)
    tap = Tap(f"model.layers.0.self_attn.{module}", "output")
    report = self_test(model, changed(layout, 0, lambda block: replace(block, heads=Heads(tap, 4, 8))))
    assert failed(report) == ["head_out", "heads_apart"]


@pytest.mark.parametrize("declared", [{"softcap": 2.5}, {"softcap": None}, {"logit_scale": 1.01}])
def test_wrong_logits(declared: dict[str, Any]) -> None:
    model, layout = built("gemma2")
    assert failed(self_test(model, replace(layout, **declared))) == ["logits", "edited_resid_post"]


def test_a_norm_that_is_not_the_final_one() -> None:
    model, layout = built("llama")
    report = self_test(model, replace(layout, final_norm="model.layers.2.input_layernorm"))
    assert failed(report) == ["logits", "edited_resid_post"]


# Models that do more than a layout can say


def test_something_between_embedding_and_first_block() -> None:
    """Nothing but the coverage of writers shows it where ``embed`` is declared distinct."""
    model, layout = built("llama")
    extra = torch.randn(layout.d_model)
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, args: (args[0] + extra, *args[1:]))
    report = self_test(model, replace(layout, embed_is_first_resid_pre=False))
    handle.remove()
    assert failed(report) == ["writers_covered"] and report.checks[-1].site == "blocks.0.resid_pre"


def test_a_block_that_is_not_given_what_the_last_one_gave() -> None:
    """Equal when nothing is edited, and deaf to edits."""
    model, layout = built("llama")
    held: list[Tensor] = []
    first = model.model.layers[0].register_forward_hook(lambda _, args, output: held.__setitem__(slice(None), [output]))
    second = model.model.layers[1].register_forward_pre_hook(lambda _, args: (held[0], *args[1:]))
    report = self_test(model, layout)
    first.remove()
    second.remove()
    assert failed(report) == ["edited_resid_post"] and report.checks[15].site == "blocks.1.resid_pre"


def test_a_block_that_remembers() -> None:
    """Its output depends on more than its arguments, so running it by hand gives something else."""
    model, layout = built("llama")
    calls = iter(range(1000))

    def drift(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # Attention of one layer drifts from call to call once the passes before the edited one are over.
        return output + 0.1 * max(0, next(calls) - 4)

    handle = model.model.layers[1].mlp.register_forward_hook(drift)
    report = self_test(model, layout)
    handle.remove()
    assert "edited_resid_post" in failed(report)


def test_a_model_that_looks_at_whose_tensor_it_gets() -> None:
    """A zero update hands on another tensor of the same bits; that alone must change nothing."""
    model, layout = built("llama")
    held: list[Tensor] = []
    first = model.model.layers[0].register_forward_hook(lambda _, args, output: held.__setitem__(slice(None), [output]))
    second = model.model.layers[1].register_forward_pre_hook(
        lambda _, args: args if args[0] is held[0] else (1.001 * args[0], *args[1:])
    )
    report = self_test(model, layout)
    first.remove()
    second.remove()
    assert failed(report)[0] == "zero_update"


def test_kernels_without_fixed_order_are_no_fault() -> None:
    """Where the model gives other bits each time, bits can't be compared; the report says so."""
    model, layout = built("llama")
    generator = torch.Generator().manual_seed(0)
    handle = model.lm_head.register_forward_hook(
        lambda _, args, output: output + 1e-7 * torch.randn(output.shape, generator=generator)
    )
    report = self_test(model, layout)
    handle.remove()
    check = next(check for check in report.checks if check.name == "zero_update")
    assert check.passed and "other bits" in check.detail and check.max_abs_error


def test_a_nan_is_a_failure_and_null_in_json() -> None:
    model, layout = built("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.bias[0] = torch.nan
    report = self_test(model, layout)
    assert "block_sum" in failed(report)
    json.dumps(report.to_dict(), allow_nan=False)


# What it says, and what it leaves


def test_the_error_names_site_numbers_and_what_to_do() -> None:
    model, layout = built("gemma2")
    wrong = writer_at(layout, 1, 0, tap=Tap("model.layers.1.self_attn", "output"))
    with pytest.raises(SelfTestError) as caught:
        self_test(model, wrong, adapter="mine").raise_if_failed()
    text = str(caught.value)
    for part in ("'gemma2'", "adapter 'mine'", "block_sum", "blocks.1.resid_post", "allowed", "ArchitectureSuite"):
        assert part in text
    assert caught.value.exit_code == 3


def test_a_fault_leaves_no_trace_either() -> None:
    model, layout = built("gemma2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.model.layers[0].eval()

    def broken(*_: Any) -> None:
        raise RuntimeError("no memory")

    handle = model.model.layers[2].register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="no memory"):
        self_test(model, layout)
    handle.remove()
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training


def test_it_wants_no_gradient() -> None:
    model, layout = built("llama")
    self_test(model, layout)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_parallel_block_passes_without_a_middle() -> None:
    """Falcon's blocks, which no adapter of ours claims: both writers read the block's input."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from steerkit.engine.tiny.models import randomise

    config = AutoConfig.for_model(
        "falcon",
        vocab_size=288,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        new_decoder_architecture=True,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)

    def block(path: str) -> Block:
        attention = Writer("attn_out", Tap(f"{path}.self_attention"), projections=(f"{path}.self_attention.dense",))
        mlp = Writer("mlp_out", Tap(f"{path}.mlp"), projections=(f"{path}.mlp.dense_4h_to_h",))
        return Block(path, (attention, mlp), heads=Heads(Tap(f"{path}.self_attention.dense", "input"), 4, 8))

    layout = Layout(
        d_model=32,
        base="transformer",
        embed=Tap("transformer.word_embeddings"),
        blocks=tuple(block(f"transformer.h.{layer}") for layer in range(2)),
        final_norm="transformer.ln_f",
        head="lm_head",
        embed_weight="transformer.word_embeddings",
    )
    self_test(model, layout).raise_if_failed()
