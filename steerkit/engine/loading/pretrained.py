"""Safetensors as transformers models, placed as they are wanted; what was made in memory goes by way of a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steerkit.engine.loading.kinds import class_for, require_causal
from steerkit.engine.loading.offload_folders import own_folder, remove_with
from steerkit.engine.loading.placing import placing, require_room
from steerkit.engine.loading.widths import require_widths
from steerkit.engine.parallel.cutting import cut_over
from steerkit.errors import ModelError
from steerkit.types.placement import ModelPlacement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def from_pretrained(
    source: str,
    dtype: torch.dtype | None,
    placement: ModelPlacement,
    options: Mapping[str, Any],
    *,
    trust_remote_code: bool = False,
    tokenizer: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load safetensors through transformers; refuse what isn't a whole causal language model.

    Args:
        source: a folder or a hub id.
        dtype: of the weights; None for the checkpoint's own.
        placement: where they go.
        options: of transformers, such as the revision.
        trust_remote_code: whether code that comes with a checkpoint may run.
        tokenizer: whether there is one.

    Raises:
        ModelError: for what can't be loaded, with a next step.
    """
    from transformers import AutoConfig, AutoTokenizer

    from steerkit.engine.loading.hub import explained
    from steerkit.engine.loading.quiet import quiet_transformers

    options = {**options, "trust_remote_code": trust_remote_code}
    with explained(source, local=Path(source).is_dir()), quiet_transformers(downloads=True):
        config = AutoConfig.from_pretrained(source, **options)
        if not trust_remote_code:
            require_causal(config, source)
        if options.get("local_files_only") and Path(source).is_dir():
            require_widths(Path(source), config)
        loaded_tokenizer = AutoTokenizer.from_pretrained(source, **options) if tokenizer else None
        kind = class_for(config)

        def empty() -> torch.nn.Module:
            built: torch.nn.Module = kind.from_config(config, trust_remote_code=trust_remote_code)
            return built

        model = _weights(kind, source, config, dtype, placement, options=options, source=source, empty=empty)
    return model, loaded_tokenizer


def placed_anew(model: PreTrainedModel, placement: ModelPlacement, source: str) -> PreTrainedModel:
    """A model that was made or written out in memory, where a placement puts it: it is written as a folder, from which
    transformers loads it as any other. One that says nothing leaves the model where it is.

    Args:
        model: on the CPU. It is given up.
        placement: where it goes.
        source: as messages call it.

    Raises:
        ModelError: for a folder that can't be written or is full, and what transformers can't place.
    """
    if placement.is_plain:
        return model
    from steerkit.engine.loading.hub import explained
    from steerkit.engine.loading.quiet import quiet_transformers

    folder = own_folder(placement.offload_folder)
    kind: Any = type(model)
    config, name, dtype = copy.deepcopy(model.config), model.config._name_or_path, model.dtype
    try:
        tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
        require_room(folder, sum(one.nbytes for one in tensors.values()), source, placement.offload_folder)
        with explained(source, local=True), quiet_transformers():
            # Each of the processes that run it has a folder of its own, where transformers lets the first one write.
            vars(model)["should_save_on_this_rank"] = lambda is_main_process: True
            model.save_pretrained(folder)
            del model, tensors
            placed = _weights(
                *(kind, str(folder), config, dtype, placement),
                options={"local_files_only": True},
                source=source,
                empty=lambda: kind._from_config(config),
            )
    except BaseException:
        remove_with(None, folder)
        raise
    placed.config._name_or_path = name
    remove_with(placed, folder)
    return placed


def _weights(
    kind: Any,
    path: str,
    config: Any,
    dtype: torch.dtype | None,
    placement: ModelPlacement,
    *,
    options: Mapping[str, Any],
    source: str,
    empty: Callable[[], torch.nn.Module],
) -> PreTrainedModel:
    cut = cut_over(placement.tensor_parallel, config, source)
    with placing(placement, empty, source) as placed:
        loaded: Any = kind.from_pretrained(
            path,
            **options,
            **placed.arguments,
            **cut,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
        )
        model: PreTrainedModel = loaded[0]
        placed.keep_with(model)
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} of the weights of {type(model).__name__} ({', '.join(missing[:3])}, …); "
            "transformers would fill them with random numbers. Is it another kind of model, or an incomplete download?"
        )
    return model
