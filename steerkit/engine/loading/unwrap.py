"""The plain model and tokenizer inside of what other libraries wrap around them, and where a model takes token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from steerkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ModelT = TypeVar("ModelT", bound=nn.Module)


def unwrapped_original(model: ModelT) -> ModelT:
    """The model inside of what ``torch.compile(model)`` returns; any other as it is."""
    inside = model._modules.get("_orig_mod") if isinstance(model, nn.Module) else None
    return model if inside is None else cast(ModelT, inside)


def plain_model(model: Any) -> Any:
    """The transformers model inside of a wrapper around it, where running that one is the same.

    Adapters that peft puts into a model's own layers stay there and act; what peft does around a model would be lost.

    Raises:
        ModelError: for a wrapper whose work lies outside of the model.
    """
    model = unwrapped_original(model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return plain_model(model.module)
    if isinstance(model, nn.DataParallel):
        raise ModelError(
            "nn.DataParallel runs copies of the model, which no hook of the model reaches. Pass the model inside "
            "(model.module), and run on one device or with device_map."
        )
    if _is_peft(model):
        return unwrapped_original(_without_peft(model))
    if not isinstance(model, nn.Module) and isinstance(getattr(model, "model", None), nn.Module):
        raise ModelError(
            f"A causal language model of transformers is needed, not a {type(model).__name__}. It has one inside: "
            "pass its .model, and its .tokenizer."
        )
    return model


def _is_peft(model: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "peft" for kind in type(model).__mro__)


def _without_peft(model: Any) -> Any:
    configs = getattr(model, "peft_config", None)
    listed = list(configs.values()) if isinstance(configs, dict) else [configs]
    kinds = [str(getattr(config, "peft_type", "")).rpartition(".")[2] for config in listed]
    if any(getattr(config, "is_prompt_learning", False) for config in listed):
        raise ModelError(
            f"This PeftModel ({', '.join(kinds)}) puts learned tokens or keys before each prompt. That happens outside "
            "of the model, where steerkit doesn't run, so its positions would be others. Adapters inside of the "
            "model's layers (LoRA and the like) work."
        )
    if hasattr(model, "get_base_model"):
        return model.get_base_model()
    inside = getattr(model, "model", None)
    if isinstance(inside, nn.Module):
        return inside
    raise ModelError(
        f"A {type(model).__name__} of peft has no model inside that steerkit knows. Pass the model itself."
    )


def plain_tokenizer(tokenizer: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or the one inside of a processor.

    Raises:
        ModelError: for anything else.
    """
    if tokenizer is None:
        return None
    for candidate in (tokenizer, getattr(tokenizer, "tokenizer", None)):
        if all(hasattr(candidate, name) for name in ("all_special_tokens", "decode", "convert_tokens_to_ids")):
            return cast("PreTrainedTokenizerBase", candidate)
    hint = "Pass the tokenizer: AutoTokenizer.from_pretrained(...)."
    if type(tokenizer).__module__.split(".")[0] == "tokenizers":
        hint = "Wrap it: transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, ...)."
    raise ModelError(f"A {type(tokenizer).__name__} is no tokenizer of transformers, nor a processor with one. {hint}")


def processor_template(tokenizer: Any) -> str | None:
    """The chat template of a processor whose tokenizer has none."""
    inside = getattr(tokenizer, "tokenizer", None)
    if inside is None or getattr(inside, "chat_template", None) is not None:
        return None
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else None


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go. An offloaded embedding lies elsewhere (or nowhere) between passes: then where it runs."""
    return _device_of(model.get_input_embeddings(), model)


def output_device(model: PreTrainedModel) -> torch.device:
    """Where logits come from, offloaded or not."""
    return _device_of(model.get_output_embeddings(), model)


def _device_of(part: nn.Module, model: PreTrainedModel) -> torch.device:
    for module in (part, model):
        device = runs_on(module)
        if device is not None:
            return device
    weights = [parameter for parameter in (*part.parameters(), *model.parameters()) if not parameter.is_meta]
    return weights[0].device if weights else torch.device("cpu")


def runs_on(module: nn.Module) -> torch.device | None:
    """The device to which accelerate brings what a module needs; None for one that runs where its parameters lie."""
    hook: Any = getattr(module, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        device = getattr(part, "execution_device", None)
        if device is not None and not isinstance(device, dict):
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return None
