"""Tiny models that are no causal class of their own: image-text classes, whose text model lies inside, and adapters of
peft around one that is."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from steerkit.engine.tiny.models import randomise, tiny_model

TEXT: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION, "projection_dim": 16},
        "image_token_id": 287,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": _MROPE},
        "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
    },
    "idefics3": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": VISION,
        "scale_factor": 1,
        "image_token_id": 287,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", **TEXT, "head_dim": 8},
        "vision_config": {"model_type": "siglip_vision_model", **VISION, "projection_dim": 32},
        "image_token_id": 287,
    },
    "mllama": {
        "text_config": {**TEXT, "cross_attention_layers": [1]},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
            "vision_output_dim": 32,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
            "intermediate_layers_indices": [0],
        },
        "image_token_index": 287,
    },
}


def image_text(kind: str) -> Any:
    """A tiny random image-text model, in eval mode."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(kind, **copy.deepcopy(CONFIGS[kind]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    randomise(model)
    return model.eval()


def adapted(kind: str, name: str) -> nn.Module:
    """A tiny model of a type with an adapter of peft around its projections, all of it random."""
    from peft import IA3Config, LoraConfig, get_peft_model

    model = tiny_model(name)
    fan_in_fan_out = name == "gpt2"
    targets = ["c_attn", "c_proj"] if name == "gpt2" else ["q_proj", "o_proj", "down_proj"]
    if kind == "ia3":
        feed = ["mlp.c_proj"] if name == "gpt2" else ["down_proj"]
        config: Any = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=[*targets, *feed],
            feedforward_modules=feed,
            fan_in_fan_out=fan_in_fan_out,
        )
    else:
        config = LoraConfig(
            task_type="CAUSAL_LM", r=2, target_modules=targets, use_dora=kind == "dora", fan_in_fan_out=fan_in_fan_out
        )
    with warnings.catch_warnings():
        # peft asks transformers for something by a name that goes away.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(0)  # what peft draws, so that every run compares the same numbers
        wrapped = get_peft_model(model, config)
    # LoRA begins at 0 and IA3 at 1, which would hide them.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key or "ia3_" in key:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return wrapped.eval()


class Int8Linear(nn.Module):
    """A linear module whose weights are held in 8 bits, with a scale for each row: no ``nn.Linear``, no parameter."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(-1, keepdim=True) / 127
        self.register_buffer("quantised", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.quantised.to(x.dtype) * self.scale  # type: ignore[operator]
        return nn.functional.linear(x, weight, self.bias)


def quantised(name: str) -> Any:
    """A tiny model of a type, every projection in its blocks held in 8 bits."""
    model = tiny_model(name)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in path:
            parent, _, own = path.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(module))
    return model
