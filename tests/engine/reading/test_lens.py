"""The logit lens against norm, head and soft cap written out, in float64, on every family."""

from __future__ import annotations

import re
import sys
import types
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from steerkit.engine.reading import lens as module
from steerkit.errors import DataError, SiteError
from steerkit.session.model import LiveModel
from steerkit.sources import TINY_MODEL_TYPES
from tests.conftest import assert_clean, tiny_live

PROMPTS = ["Short", "A prompt of middling length"]

FROM_ONE: Final = (
    *("gemma", "gemma2", "gemma3", "gemma3_text", "vaultgemma", "qwen3_next"),
    *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
)
"""Types whose norm multiplies by one plus its weight. Gemma 4's doesn't."""


def literal(live: LiveModel, model_type: str, stream: Tensor) -> Tensor:
    """``c tanh(W n(x) / c)`` with ``n(x) = x / sqrt(mean x² + ε) · (w or 1 + w)``."""
    config = live.model.config.get_text_config()
    weights = {name: value.double() for name, value in live.model.state_dict().items()}
    (norm,) = (
        value for name, value in weights.items() if re.search(r"(^|\.)(model|language_model)\.norm\.|ln_f\.", name)
    )
    x = stream.double()
    x = x / (x.square().mean(-1, keepdim=True) + getattr(config, "rms_norm_eps", 1e-6)).sqrt()
    x = x * (1 + norm if model_type in FROM_ONE else norm)
    logits = x @ weights["lm_head.weight"].T
    cap = getattr(config, "final_logit_softcapping", None)
    # The multimodal wrapper of Gemma 3 leaves the soft cap out, which its own logits below confirm.
    return logits if cap is None or model_type == "gemma3" else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_it_is_norm_head_and_soft_cap_of_the_model(model_type: str) -> None:
    live = tiny_live(model_type)
    last = f"blocks.{live.layout.n_layers - 1}.resid_post"
    found = live.logit_lens(live.activations(PROMPTS, ["blocks.*.resid_pre", last], progress=False))
    assert len(found.sites) == live.layout.n_layers + 1
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([live.chat.render(prompt).token_ids])
        with torch.no_grad():
            output = live.model(input_ids=ids, output_hidden_states=True)
        # Qwen 1's own class gives no hidden states, and its first stream is its embedding.
        streams = output.hidden_states or (live.model.get_input_embeddings()(ids),)
        for site in found.sites[: len(streams) - 1 or 1]:
            expected = literal(live, model_type, streams[site.layer][0])
            assert torch.allclose(found.ragged(site)[row].double(), expected, atol=1e-4, rtol=1e-4), site
            if row == 0 and site.layer == 1:
                other = literal(live, "x", streams[1][0])
                assert torch.allclose(expected, other) is not (model_type in FROM_ONE), "the offset is seen"
        assert torch.allclose(found.ragged(last)[row], output.logits[0].float(), atol=1e-4, rtol=1e-4)
    assert_clean(live)


def test_both_kinds_of_norm_and_a_soft_cap_are_among_the_families() -> None:
    capped = {kind for kind in TINY_MODEL_TYPES if tiny_live(kind).layout.softcap is not None}
    assert {"gemma2", "gemma3_text", "vaultgemma"} <= capped and "llama" not in capped


def test_some_at_a_time_gives_the_same(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read = llama.activations(PROMPTS, ["embed", "blocks.0.resid_mid"], progress=False)
    whole = llama.logit_lens(read)["embed"]
    assert whole.shape == (*read.mask.shape, llama.n_logits) and not bool(whole[~read.mask].any())
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 3 * llama.n_logits)
    assert torch.allclose(llama.logit_lens(read)["embed"], whole, atol=1e-5)


def test_guesses_and_log_probabilities_are_the_softmax_of_the_logits(llama: LiveModel) -> None:
    read = llama.activations(PROMPTS, ["blocks.1.resid_post"], "instruction", progress=False)
    found = llama.logit_lens(read)
    logs = found["blocks.1.resid_post"].log_softmax(-1)
    top = found.top(3)
    assert [len(prompt) for prompt in top] == list(read.read.counts) == [5, 27]
    for row, prompt in enumerate(top):
        for token, guesses in enumerate(prompt):
            values, ids = logs[row, token].exp().topk(3)
            assert [guess.token_id for guess in guesses] == ids.tolist()
            assert [guess.probability for guess in guesses] == pytest.approx(values.tolist(), rel=1e-5)
            assert guesses[0].text == llama.tokenizer.decode([guesses[0].token_id])  # type: ignore[union-attr]
    (token_id,) = llama.chat.tokenizer.encode("a", add_special_tokens=False)
    for named in ("a", token_id):
        each = found.log_probabilities(named)
        assert torch.allclose(each[read.mask], logs[..., token_id][read.mask], atol=1e-5)
        assert bool(each[~read.mask].isnan().all())


def test_a_frame_has_a_row_for_each_guess(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("pandas")
    fake.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    found = llama.logit_lens(llama.activations(PROMPTS, "blocks.*.resid_post", "instruction", progress=False))
    frame = found.to_frame(2)
    assert {len(column) for column in frame.values()} == {3 * 32 * 2}
    assert frame["rank"][:4] == [0, 1, 0, 1] and frame["token"][:4] == ["S", "S", "h", "h"]
    guess = found.top(2, "blocks.2.resid_post")[1][-1][1]
    assert (frame["guess_id"][-1], frame["probability"][-1]) == (guess.token_id, guess.probability)
    assert frame["site"][-1] == "blocks.2.resid_post" and frame["prompt"][-1] == 1


def test_what_is_no_stream_of_the_model_is_refused(llama: LiveModel) -> None:
    def read(site: str, live: LiveModel = llama) -> Any:
        return live.activations(PROMPTS, site, -1, progress=False)

    for site in ("blocks.1.attn_out", "blocks.1.mlp_out", "blocks.1.head_out", "blocks.1.head_out[0]"):
        with pytest.raises(SiteError, match=r"reads the stream, and at .*Read blocks\.1\.resid_pre or"):
            llama.logit_lens(read(site))
    with pytest.raises(DataError, match=r"takes what model\.activations\(prompts, sites\) gives.*not a Captured"):
        llama.logit_lens(llama.capture(PROMPTS, "embed"))  # type: ignore[arg-type]
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    other = wrap(tiny_model("llama", d_model=64), tiny_tokenizer())
    with pytest.raises(DataError, match=r"have width 64 at embed, and the model has width 32 and 3 blocks"):
        llama.logit_lens(read("embed", other))
    found = llama.logit_lens(read("embed"))
    for k in (0, True, 10**6):
        with pytest.raises(DataError, match="k is how many tokens to name, from 1 to 288"):
            found.top(k)
    for token, said in (("several letters", "is 15 tokens, and one is looked up"), (288, "below 288, not by 288")):
        with pytest.raises(DataError, match=said):
            found.log_probabilities(token)


def test_it_is_shown_in_a_few_lines(llama: LiveModel) -> None:
    found = llama.logit_lens(llama.activations(["<b>"], "blocks.*.resid_post", "instruction", progress=False))
    assert repr(found).startswith(
        "Logit lens of 1 prompt at 3 sites, positions 'instruction'\n  blocks.0.resid_post … "
    )
    shown = found._repr_html_()
    assert shown.count("<tr>") == 4 and "&lt;" in shown and "<b></th>" not in shown
    assert shown.index("blocks.2.resid_post") < shown.index("blocks.0.resid_post"), "the last layer is on top"
