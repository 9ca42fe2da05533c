"""A GGUF file small enough to write in a test: a two-layer Llama with quantised weights and a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

D_MODEL, D_MLP, N_LAYERS, N_HEADS, N_KEY_HEADS = 64, 96, 2, 2, 1
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TinyGGUF:
    """What was written: the file, and every tensor as the GGUF stores it, written out in float32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        writer = gguf.GGUFWriter(path, "llama")
        self._describe(writer)
        generator = np.random.default_rng(0)
        for name, shape in self._shapes().items():
            self._add(writer, name, generator.normal(size=shape).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(N_LAYERS)
        writer.add_context_length(128)
        writer.add_embedding_length(D_MODEL)
        writer.add_feed_forward_length(D_MLP)
        writer.add_head_count(N_HEADS)
        writer.add_head_count_kv(N_KEY_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(len(self._tokens()))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(self._tokens())
        writer.add_token_types([3] * len(SPECIAL) + [1] * (len(self._tokens()) - len(SPECIAL)))
        writer.add_token_merges(["Ċ Ċ", "Ġ Ġ"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(False)
        writer.add_chat_template(TEMPLATE)

    @staticmethod
    def _tokens() -> list[str]:
        return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ", "ĠĠ"]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        d_key = D_MODEL // N_HEADS * N_KEY_HEADS
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (len(self._tokens()), D_MODEL),
            "output_norm.weight": (D_MODEL,),
        }
        for layer in range(N_LAYERS):
            block: dict[str, tuple[int, ...]] = {
                "attn_norm": (D_MODEL,),
                "ffn_norm": (D_MODEL,),
                "attn_q": (D_MODEL, D_MODEL),
                "attn_k": (d_key, D_MODEL),
                "attn_v": (d_key, D_MODEL),
                "attn_output": (D_MODEL, D_MODEL),
                "ffn_gate": (D_MLP, D_MODEL),
                "ffn_up": (D_MLP, D_MODEL),
                "ffn_down": (D_MODEL, D_MLP),
            }
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        return shapes

    def _add(self, writer: gguf.GGUFWriter, name: str, values: np.ndarray[Any, Any]) -> None:
        kind = gguf.GGMLQuantizationType.Q4_1 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        if values.ndim == 1:
            self.tensors[name] = values
            writer.add_tensor(name, values)
            return
        packed = gguf.quants.quantize(values, kind)
        self.tensors[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> TinyGGUF:
    return TinyGGUF(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
