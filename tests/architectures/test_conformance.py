"""Every adapter passes the suite that a stranger inherits, on every model type it claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import steerkit_architectures.auto
import steerkit_architectures.gemma
import steerkit_architectures.llama
import steerkit_architectures.qwen
import steerkit_architectures.yi
from steerkit.testing import ArchitectureSuite, tiny_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Tiny(ArchitectureSuite):
    def model(self) -> PreTrainedModel:
        return tiny_model(self.variant)


class TestLlama(_Tiny):
    plugin = steerkit_architectures.llama
    variants = ("llama", "diffllama")


class TestYi(_Tiny):
    plugin = steerkit_architectures.yi
    variants = ("yi",)
    special_tokens = frozenset({"<|startoftext|>", "<|endoftext|>", "<unk>"})


class TestQwen(_Tiny):
    plugin = steerkit_architectures.qwen
    name = "qwen"
    variants = (
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_5_text",
        "qwen3_5",
        "qwen3_5_moe_text",
        "qwen3_5_moe",
    )


class TestQwen1(_Tiny):
    plugin = steerkit_architectures.qwen
    name = "qwen1"
    variants = ("qwen",)


class TestGemma(_Tiny):
    plugin = steerkit_architectures.gemma
    variants = (
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma3",
        "gemma4_text",
        "gemma4_text_moe",
        "gemma4",
        "gemma4_unified_text",
        "gemma4_unified",
        "vaultgemma",
    )


class TestAuto(_Tiny):
    """Decoders that nobody declares; every causal type is held to the same by the table of decoders."""

    plugin = steerkit_architectures.auto
    variants = ("gpt2", "opt", "granite", "mixtral")
