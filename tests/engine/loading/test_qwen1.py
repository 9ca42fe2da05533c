"""Qwen 1 checkpoints through Qwen 2's classes: equal to a literal Qwen 1, or refused with the reason."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.engine.loading import hub
from steerkit.engine.loading.load import load
from steerkit.engine.loading.qwen1_ends import read_ends
from steerkit.engine.loading.qwen1_tokenizer import merges_of, qwen1_tokenizer
from steerkit.errors import DataError, ModelError
from tests.engine.loading import qwen1_literal as literal

CHATML = (Path(__file__).parents[3] / "recipes/paper/templates/chatml.jinja").read_text("utf-8")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return literal.write_checkpoint(tmp_path_factory.mktemp("qwen1") / "Qwen-1_8B-Chat")


@pytest.fixture(scope="module")
def live(checkpoint: Path) -> Any:
    return steerkit.load_model(str(checkpoint), dtype="float32", device="cpu", chat_template=CHATML)


IDS = torch.tensor([(37 * place * place + 11) % 520 for place in range(literal.CONTEXT)])


def test_logits_are_those_of_the_literal_model(live: Any) -> None:
    expected = literal.logits(literal.weights(), IDS, literal.config())
    found = live.forward(IDS[None]).logits[0]
    assert float(expected.std()) > 0.5, "a model that says something"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_changed_config_changes_both_alike(tmp_path: Path) -> None:
    said = {"rotary_emb_base": 100, "layer_norm_epsilon": 0.1}
    folder = literal.write_checkpoint(tmp_path / "other", **said)
    model = load(folder, dtype="float32", device="cpu").model
    expected = literal.logits(literal.weights(), IDS, literal.config(**said))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)
    before = literal.logits(literal.weights(), IDS, literal.config())
    assert float((expected - before).abs().max()) > 0.1


def test_it_is_steered_as_a_qwen_2_and_needs_no_code_of_its_own(live: Any) -> None:
    """The self-test at load has passed; a direction at a site moves what the literal stream holds there."""
    assert live.adapter_name == "qwen" and live.facts.model_type == "qwen2"
    assert live.layout.n_layers == literal.LAYERS
    push = steerkit.Direction(torch.randn(1, literal.WIDTH), "blocks.1.resid_pre")
    with live.steer(steerkit.add(push, coefficient=3.0)):
        steered = live.forward(IDS[None, :8]).logits
    assert not torch.allclose(steered, live.forward(IDS[None, :8]).logits, atol=1e-2)


def test_beyond_the_trained_context_it_is_refused(live: Any) -> None:
    over = torch.zeros(1, literal.CONTEXT + 1, dtype=torch.long)
    with pytest.raises(DataError, match=f"context of {literal.CONTEXT}") as caught:
        live.forward(over)
    assert "dynamic NTK" in str(caught.value)
    with pytest.raises(DataError, match=f"context of {literal.CONTEXT}"):
        live.generate("What is a fridge?", max_new_tokens=literal.CONTEXT)
    with pytest.raises(DataError, match=f"context of {literal.CONTEXT}"):
        steerkit.capture(live, ["fridge " * literal.CONTEXT], sites="blocks.1.resid_pre")
    cache = live.forward(IDS[None], use_cache=True).past_key_values
    with pytest.raises(DataError, match=f"context of {literal.CONTEXT}"):
        live.forward(IDS[None, :1], past_key_values=cache)


def test_what_it_saves_is_a_qwen_2_that_keeps_its_context(live: Any, tmp_path: Path) -> None:
    live.hf_model.save_pretrained(tmp_path / "saved")
    live.chat.tokenizer.save_pretrained(tmp_path / "saved")
    again = steerkit.load_model(str(tmp_path / "saved"), dtype="float32", device="cpu", chat_template=CHATML)
    assert torch.equal(again.forward(IDS[None]).logits, live.forward(IDS[None]).logits)
    assert again.rendered("Is it cold?")[0] == live.rendered("Is it cold?")[0]
    with pytest.raises(DataError, match="dynamic NTK"):
        again.forward(torch.zeros(1, literal.CONTEXT + 1, dtype=torch.long))


def test_completions_end_where_a_turn_ends(live: Any) -> None:
    ids = live.chat.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    assert live.hf_model.generation_config.eos_token_id == ids
    assert not live.hf_model.generation_config.do_sample, "the checkpoint's own sampling is nobody's default here"


@pytest.mark.parametrize(
    ("said", "eos", "pad"),
    [
        ({"chat_format": "chatml"}, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"], "<|endoftext|>"),
        ({"chat_format": "raw"}, ["<|endoftext|>"], "<|endoftext|>"),
        (None, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"], "<|endoftext|>"),
        ({"eos_token_id": 7}, [7, "<|im_end|>", "<|im_start|>"], "<|endoftext|>"),
        ({"eos_token_id": [7, 9], "pad_token_id": 3, "chat_format": "raw"}, [7, 9, "<|endoftext|>"], 3),
    ],
)
def test_what_ends_an_answer_is_what_the_checkpoint_says(
    checkpoint: Path, live: Any, tmp_path: Path, said: dict[str, Any] | None, eos: list[Any], pad: Any
) -> None:
    def number(token: str | int) -> int:
        return token if isinstance(token, int) else int(live.chat.tokenizer.convert_tokens_to_ids(token))

    if said is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({**said, "top_p": 0.8}), "utf-8")
    found = read_ends(tmp_path, number, 520, "it")
    assert (list(found.eos), found.pad) == ([number(token) for token in eos], number(pad))
    bare = read_ends(tmp_path, None, 520, "it")
    assert list(bare.eos) == [token for token in eos if isinstance(token, int)], "no tokenizer, no special tokens"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"chat_format": "alpaca"}', "says chat_format: 'alpaca', where chatml or raw is expected"),
        ('{"chat_format": ["raw"]}', "says chat_format: ['raw']"),
        ('{"eos_token_id": 151643}', "says eos_token_id: 151643, where the id of one of its 520 tokens is expected"),
        ('{"eos_token_id": "x"}', "says eos_token_id: 'x'"),
        ('{"pad_token_id": true}', "says pad_token_id: True"),
        ("[]", "holds no settings"),
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_a_generation_config_that_its_own_code_would_not_take_is_told(tmp_path: Path, said: str, message: str) -> None:
    (tmp_path / "generation_config.json").write_text(said, "utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json") as caught:
        read_ends(tmp_path, None, 520, "it")
    assert message in str(caught.value)


def test_a_loaded_model_ends_where_its_file_says(tmp_path: Path) -> None:
    folder = literal.write_checkpoint(tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9], "chat_format": "raw"}', "utf-8")
    config = load(folder, dtype="float32", device="cpu").model.generation_config
    assert config.eos_token_id == [7, 9, len(literal.learned_ranks())]
    assert config.pad_token_id == len(literal.learned_ranks()) and not config.do_sample


def test_five_tokens_follow_the_instruction(live: Any) -> None:
    (rendered,) = live.rendered("Is it cold?")
    start, stop = rendered.instruction
    ranks = literal.learned_ranks()
    assert list(rendered.token_ids[start:stop]) == literal.encoded("Is it cold?", ranks)
    following = literal.encoded("<|im_end|>\n<|im_start|>assistant\n", ranks)
    assert list(rendered.token_ids[stop:]) == following
    assert len(literal.encoded("<|im_end|>\n<|im_start|>\n", ranks)) == 4


TEXTS = [
    literal.TEXT,
    "",
    "   ",
    "It's IT'S we'LL they’re 1234567 x\n\n\n5  \t y \r\n",
    "<|im_start|>user\nthe the<|im_end|>\n<|endoftext|><|extra_204|><|extra_205|>",
    "e\u0301 A\u030a \u1e9b\u0323 \ufb01 \u212b",  # composed or left by NFC
    "冰箱很冷\u3000冰\u200d👩‍👩‍👧 \x00\x7f \xa0\xad",
    "mothermothertherthethethe aaaaa there",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokens_are_those_of_the_literal_tokenizer(live: Any, text: str) -> None:
    ranks = literal.learned_ranks()
    expected = literal.encoded(text, ranks)
    assert live.chat.tokenizer(text)["input_ids"] == expected
    assert live.chat.tokenizer(text, add_special_tokens=False)["input_ids"] == expected
    assert live.chat.tokenizer.decode(expected) == unicodedata.normalize("NFC", text)


def test_tokens_of_random_texts(live: Any) -> None:
    """Texts of the letters of the tokens that were learned, where joins overlap most."""
    source = torch.Generator().manual_seed(3)
    ranks = literal.learned_ranks()
    letters = "theraofgisn' .\n1冰箱"
    for _ in range(300):
        text = "".join(letters[index] for index in torch.randint(len(letters), (30,), generator=source).tolist())
        assert live.chat.tokenizer(text)["input_ids"] == literal.encoded(text, ranks), text


def test_ranks_that_no_merges_can_say_are_refused(tmp_path: Path) -> None:
    ranks = literal.learned_ranks()
    path = tmp_path / "qwen.tiktoken"
    assert len(merges_of(ranks, path)) == len(ranks) - 256
    ranks[b"qzxj"] = len(ranks)  # no pair makes it
    literal.write_ranks(path, ranks)
    with pytest.raises(ModelError, match=r"token 316 \(b'qzxj'\) is left in 4 parts.*Convert the tokenizer"):
        qwen1_tokenizer(path, vocabulary=1000)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["YQ=="], "a line isn't a token"),
        (["YQ== x"], "a line isn't a token"),
        (["Y*== 1"], "a line isn't a token"),
        (["YQ== 0"], "is damaged"),
    ],
)
def test_damaged_ranks_are_refused(tmp_path: Path, lines: list[str], part: str) -> None:
    path = tmp_path / "qwen.tiktoken"
    path.write_text("\n".join(lines), "ascii")
    with pytest.raises(ModelError, match=part):
        qwen1_tokenizer(path, vocabulary=1000)


def test_ranks_of_another_model_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="embeddings for 400"):
        qwen1_tokenizer(checkpoint / "qwen.tiktoken", vocabulary=400)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"rotary_pct": 0.5}, "rotary_pct: 0.5"),
        ({"kv_channels": 16}, "kv_channels: 16"),
        ({"no_bias": False}, "no_bias: False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: True"),
        ({"use_cache_quantization": True}, "use_cache_quantization: True"),
        ({"scale_attn_weights": False}, "scale_attn_weights: False"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"visual": {"layers": 48}}, "reads images"),
        ({"audio": {}}, "reads sound"),
        ({"seq_length": None}, "lacks seq_length"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, where a whole number above 0"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"rotary_emb_base": None}, "rotary_emb_base: None"),
        ({"hidden_size": 30, "kv_channels": 7}, "can't be divided"),
    ],
)
def test_configs_that_compute_something_else_are_refused(tmp_path: Path, changed: dict[str, Any], part: str) -> None:
    folder = literal.write_checkpoint(tmp_path / "other", **changed)
    with pytest.raises(ModelError, match=part):
        load(folder)


def test_weights_that_are_not_qwen_1_s_are_refused(tmp_path: Path) -> None:
    tensors = literal.weights()
    tensors["transformer.h.0.attn.lora_A"] = torch.zeros(2, 2)
    with pytest.raises(ModelError, match=r"holds transformer\.h\.0\.attn\.lora_A"):
        load(literal.write_checkpoint(tmp_path / "more", tensors))
    del tensors["transformer.h.0.attn.lora_A"], tensors["transformer.h.1.mlp.w2.weight"]
    with pytest.raises(ModelError, match=r"lacks 1 of the weights from which.*layers\.1\.mlp\.gate_proj"):
        load(literal.write_checkpoint(tmp_path / "less", tensors))
    buffers = literal.weights() | {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    load(literal.write_checkpoint(tmp_path / "buffers", buffers))


def test_pickled_weights_are_refused_as_anybodys(tmp_path: Path) -> None:
    folder = literal.write_checkpoint(tmp_path / "old")
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickled weights only"):
        load(folder)


def test_without_its_tokenizer_s_file_it_takes_token_ids(tmp_path: Path) -> None:
    folder = literal.write_checkpoint(tmp_path / "bare")
    (folder / "qwen.tiktoken").unlink()
    loaded = load(folder, dtype="bfloat16")
    assert loaded.tokenizer is None
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}


def test_from_the_hub_s_cache(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's client lays it out: nothing is fetched, no code is asked for."""
    from huggingface_hub import constants

    repository = tmp_path / "models--Qwen--Qwen-1_8B-Chat"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, "utf-8")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    loaded = load("Qwen/Qwen-1_8B-Chat", device="cpu", dtype="float32")
    assert loaded.weights_hash == load(checkpoint).weights_hash is not None
    expected = literal.logits(literal.weights(), IDS, literal.config())
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="hub's cache"):
        load("Qwen/Qwen-7B-Chat")


def test_its_config_is_not_touched(checkpoint: Path) -> None:
    assert json.loads((checkpoint / "config.json").read_text("utf-8"))["auto_map"]
