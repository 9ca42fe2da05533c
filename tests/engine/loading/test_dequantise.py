"""GGUF files: exactly the stored values, as a plain model with a tokenizer that cuts text as the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerkit.engine.loading.dequantise import dequantise, read_gguf
from steerkit.errors import ModelError


def rotary_order(weight: np.ndarray[Any, Any], n_heads: int) -> torch.Tensor:
    """Undo the order in which GGUF keeps the rows of queries and keys: pairs side by side, not halves apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return torch.from_numpy(pairs.swapaxes(1, 2).reshape(rows, columns).copy())


def test_every_weight_is_the_stored_value(tiny_gguf: Any) -> None:
    model, _ = read_gguf(tiny_gguf.path)
    state, stored = model.state_dict(), tiny_gguf.tensors
    names = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}  # fmt: skip
    for layer in range(2):
        for short, long in names.items():
            found = state[f"model.layers.{layer}.{long}.weight"]
            assert torch.equal(found, torch.from_numpy(stored[f"blk.{layer}.{short}.weight"])), long
        for short, n_heads in (("q", 2), ("k", 1)):
            found = state[f"model.layers.{layer}.self_attn.{short}_proj.weight"]
            assert torch.equal(found, rotary_order(stored[f"blk.{layer}.attn_{short}.weight"], n_heads)), short
    assert torch.equal(state["model.embed_tokens.weight"], torch.from_numpy(stored["token_embd.weight"]))


@pytest.mark.parametrize("asked", [True, False], ids=["asked to unpack", "left to itself"])
def test_nothing_of_the_quantiser_is_left(
    tiny_gguf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    if not asked:  # versions of transformers differ in whether they can be asked
        monkeypatch.setattr("steerkit.engine.loading.dequantise._unpacked", dict)
    model, _ = read_gguf(tiny_gguf.path)
    assert not model.is_quantized
    assert getattr(model.config, "quantization_config", None) is None
    assert "quantization_config" not in model.config.to_dict()
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)


def test_the_folder_is_the_same_model(tiny_gguf: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dequantise(tiny_gguf.path, tmp_path / "out", "tiny")
    direct, tokenizer = read_gguf(tiny_gguf.path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in direct.state_dict().items())
    assert again.generation_config.eos_token_id == 2
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.chat_template == tokenizer.chat_template
    assert saved.special_tokens_map == tokenizer.special_tokens_map
    assert saved.padding_side == "left"


@pytest.mark.parametrize("saved", [False, True])
def test_digits_are_split_off_first(tiny_gguf: Any, tmp_path: Path, saved: bool) -> None:
    from transformers import AutoTokenizer

    _, tokenizer = read_gguf(tiny_gguf.path)
    if saved:
        dequantise(tiny_gguf.path, tmp_path / "out", "tiny")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    # Without the file's own pattern the second line break goes with the digit's word, and the pair is broken.
    assert tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]
    assert tokenizer.decode(tokenizer("a\n\n12 é")["input_ids"]) == "a\n\n12 é"


def test_reading_is_quiet(tiny_gguf: Any, capfd: pytest.CaptureFixture[str]) -> None:
    read_gguf(tiny_gguf.path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keep", [0, 3, 40, 0.2, 0.9])
def test_a_damaged_file_is_said(tiny_gguf: Any, tmp_path: Path, keep: float) -> None:
    content = tiny_gguf.path.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        read_gguf(path)


def test_another_file_is_not_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("<!doctype html>")
    with pytest.raises(ModelError, match=r"is not a GGUF file: it begins with b'<!do'"):
        read_gguf(path)
