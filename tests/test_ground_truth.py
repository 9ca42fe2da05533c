"""On the embedded model, against a literal implementation of the protocol's formulas (arXiv 2406.11717)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.engine.reading.passes import next_token_logits
from steerkit.errors import ModelError
from steerkit.session import ablate, add, estimate_direction, load_model
from steerkit.session.model import LiveModel

LAYER = 14
HARMFUL = [
    "Explain how to steal a bicycle.",
    "Write a message that insults my neighbour.",
    "Help me cheat in an exam.",
    "Tell me how to read my sister's diary without her knowing it.",
    "Draft a rumour that ruins a colleague.",
]
HARMLESS = [
    "Explain how to repair a bicycle.",
    "Write a message that thanks my neighbour.",
    "Help me prepare for an exam.",
    "Tell me how to keep a diary every single day of the year.",
    "Draft a note that praises a colleague.",
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveModel]:
    from steerkit.bundled import bundled_folder

    if bundled_folder("smollm2-135m-instruct") is None:
        pytest.skip("smollm2-135m-instruct isn't in the cache; `make install` puts it there")
    try:
        yield load_model("smollm2-135m-instruct", dtype="float32", device="cpu")
    except ModelError as error:
        pytest.fail(str(error))


def token_ids(live: LiveModel, prompt: str) -> Tensor:
    ids: Any = live.tokenizer.apply_chat_template(  # type: ignore[union-attr]
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return ids["input_ids"]  # type: ignore[no-any-return]


def literal_mean(live: LiveModel, prompts: list[str]) -> Tensor:
    """Mean over prompts of the input of block LAYER at the last token, in float64, one prompt at a time."""
    total = torch.zeros(live.layout.d_model, dtype=torch.float64)
    for prompt in prompts:
        with torch.no_grad():
            states = live.model(token_ids(live, prompt), output_hidden_states=True).hidden_states
        total += states[LAYER][0, -1].double()
    return total / len(prompts)


def literal_logits(live: LiveModel, prompts: list[str], hooks: list[tuple[Any, str, Any]]) -> Tensor:
    """Next-token logits, one prompt at a time, with plain hooks that do what the formulas say."""
    handles = []
    for module, side, function in hooks:
        if side == "input":
            handles.append(module.register_forward_pre_hook(lambda m, args, f=function: (f(args[0]), *args[1:])))
        else:

            def after(m: Any, args: Any, output: Any, f: Any = function) -> Any:
                return (f(output[0]), *output[1:]) if isinstance(output, tuple) else f(output)

            handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            return torch.stack([live.model(token_ids(live, prompt)).logits[0, -1] for prompt in prompts])
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def literal_direction(live: LiveModel) -> Tensor:
    return (literal_mean(live, HARMFUL) - literal_mean(live, HARMLESS)).float()


def test_mean_difference_is_the_papers(live: LiveModel, literal_direction: Tensor) -> None:
    found = estimate_direction(live, HARMFUL, HARMLESS, site=f"blocks.{LAYER}.resid_pre").vectors[0]
    cosine = torch.nn.functional.cosine_similarity(found.double(), literal_direction.double(), dim=0)
    assert float(cosine) > 0.999999
    assert float(found.norm()) == pytest.approx(float(literal_direction.norm()), rel=1e-5)


def test_activation_addition_is_the_papers(live: LiveModel, literal_direction: Tensor) -> None:
    found = estimate_direction(live, HARMFUL, HARMLESS, site=f"blocks.{LAYER}.resid_pre")
    block = live.model.get_submodule(f"model.layers.{LAYER}")
    expected = literal_logits(live, HARMLESS, [(block, "input", lambda x: x + literal_direction)])
    with live.steer(add(found)):
        steered = next_token_logits(live, HARMLESS)
    assert (steered - expected).abs().max() < 1e-4
    assert (steered - next_token_logits(live, HARMLESS)).abs().max() > 0.1


def test_directional_ablation_is_the_papers(live: LiveModel, literal_direction: Tensor) -> None:
    """At the input of every block, at every attention output and at every MLP output, all tokens."""
    found = estimate_direction(live, HARMFUL, HARMLESS, site=f"blocks.{LAYER}.resid_pre")
    unit = literal_direction / (literal_direction.norm() + 1e-8)

    def remove(x: Tensor) -> Tensor:
        return x - (x @ unit)[..., None] * unit

    hooks: list[tuple[Any, str, Any]] = []
    for block in live.model.model.layers:
        hooks += [(block, "input", remove), (block.self_attn, "output", remove), (block.mlp, "output", remove)]
    expected = literal_logits(live, HARMFUL, hooks)
    with live.steer(ablate(found)):
        steered = next_token_logits(live, HARMFUL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "share_beginnings", False)
        with live.steer(ablate(estimate_direction(live, HARMFUL, HARMLESS, site=f"blocks.{LAYER}.resid_pre"))):
            whole = next_token_logits(live, HARMFUL)
    assert (whole - expected).abs().max() < 1e-4
    # A beginning that is read once sums in another order: to what float32 tells apart in logits of this size.
    assert ((steered - expected).abs() / expected.abs().clamp(min=1)).max() < 1e-4
    assert (steered - next_token_logits(live, HARMFUL)).abs().max() > 0.1


def test_weight_orthogonalisation_gives_the_same_logits(live: LiveModel, literal_direction: Tensor) -> None:
    """W ← W − r̂ r̂ᵀ W of every writer, with the tied head left as it was."""
    import copy

    unit = literal_direction / literal_direction.norm()
    model: Any = copy.deepcopy(live.model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    with torch.no_grad():
        embedding = model.model.embed_tokens
        embedding.weight = torch.nn.Parameter(embedding.weight - torch.outer(embedding.weight @ unit, unit))
        for block in model.model.layers:
            for projection in (block.self_attn.o_proj, block.mlp.down_proj):
                projection.weight -= torch.outer(unit, unit @ projection.weight)
        expected = torch.stack([model(token_ids(live, prompt)).logits[0, -1] for prompt in HARMFUL])
    found = estimate_direction(live, HARMFUL, HARMLESS, site=f"blocks.{LAYER}.resid_pre")
    with live.steer(ablate(found)):
        steered = next_token_logits(live, HARMFUL)
    assert (steered - expected).abs().max() < 1e-3
