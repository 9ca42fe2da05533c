"""Models that are here to be timed: random weights in a shape that brings out what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from steerkit.errors import ModelError, nearest

if TYPE_CHECKING:
    import torch

    from steerkit.session.model import LiveModel

LAUNCH_BOUND: Final[Mapping[str, int]] = MappingProxyType(
    {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 30,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    }
)
"""A step of such a Llama is nearly all Python, so that every microsecond of a hook shows."""

EIGHT_BILLION: Final[Mapping[str, int]] = MappingProxyType(
    {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    }
)
"""The shape of an 8B Llama, for GPUs: drawn on the device, so that nothing is downloaded."""

SHAPES: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {"tiny": LAUNCH_BOUND, "random-llama-8b": EIGHT_BILLION}
)
"""What can be measured by name, beside everything that ``load_model`` takes."""


def random_llama(shape: Mapping[str, int], dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Any:
    """A Llama with random weights whose activations stay of order 1, in eval mode, wanting no gradient."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = dict(shape)
    config = LlamaConfig(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=2, tie_word_embeddings=False)
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device(device) if device != "cpu" else nullcontext():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            model: Any = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
    draw(model, seed, device)
    model.requires_grad_(False)
    return model.eval()


def draw(model: Any, seed: int, device: str) -> None:
    """Fill matrices with noise that keeps what passes through at its size, and norms with values about 1."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.7, 1.3, generator=generator)
            else:
                width = 1 if parameter is embedding else parameter.shape[-1]
                parameter.normal_(0.0, width**-0.5, generator=generator)


def load_subject(source: str, *, device: str = "auto", dtype: str = "auto") -> LiveModel:
    """The model to measure: ``tiny``, another name of ``SHAPES``, or any source that ``load_model`` takes.

    Raises:
        ModelError: where it can't be found or read.
    """
    from steerkit.session import load_model, wrap

    if source not in SHAPES:
        return load_model(source, device=device, dtype=dtype, chat_template="none")
    from steerkit.engine.tiny.models import tiny_tokenizer

    where, kind = _where(device), _kind(dtype, _where(device))
    model = random_llama(SHAPES[source], kind, where)
    tokenizer = tiny_tokenizer(SHAPES[source]["vocab_size"]) if source == "tiny" else None
    return wrap(model, tokenizer, chat_template="none", self_test=source == "tiny")


def _where(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"This machine (or this build of torch) has no device {device}. Use --device cpu.")
    if device != "cpu" and not device.startswith("cuda"):
        raise ModelError(f"{device!r} is not a device that can be measured. Write auto, cpu, cuda or cuda:1.")
    return device


def _kind(dtype: str, device: str) -> torch.dtype:
    import torch

    from steerkit.engine.loading.load import DTYPES

    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}. {nearest(dtype, [*DTYPES, 'auto'], 'dtype')}")
    return DTYPES[dtype]
