"""A model cut over processes by transformers' own tensor parallelism: what it is told, and refused before it loads."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steerkit.engine.parallel.group import join
from steerkit.engine.parallel.shards import runs_in_parallel
from steerkit.errors import ModelError, UnsupportedModelError, counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def cut_over(processes: int | None, config: PreTrainedConfig, source: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told to cut a model over the processes that torchrun started; they join here.

    Args:
        processes: how many; None for a model of one process, of which nothing is told.
        config: of the model.
        source: as messages call the model.

    Raises:
        ParallelError: where torchrun started no processes, or others.
        ModelError: for a model that can't be cut over so many.
    """
    if processes is None:
        return {}
    require_plan(processes, config, source)
    # Transformers puts shares on GPUs wherever there are some.
    join(processes, "cuda" if torch.cuda.is_available() else "cpu")
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=processes)}


def is_cut(model: nn.Module) -> bool:
    """Whether transformers' tensor parallelism runs modules of a model, each on the share of a process."""
    return any(runs_in_parallel(module) for module in model.modules())


def uncut(model: PreTrainedModel) -> PreTrainedModel:
    """A model's modules as they are in one process, with nothing in their parameters."""
    config: Any = copy.deepcopy(model.config)
    config.distributed_config = None
    with torch.device("meta"):
        twin: PreTrainedModel = type(model)(config)
    twin.eval()
    return twin


def require_no_stages(model: Any) -> None:
    """Raise ``UnsupportedModelError`` for a model of whose blocks each process has others: no process has all sites."""
    stages = getattr(getattr(model.config, "distributed_config", None), "pp_size", None) or 1
    if stages > 1:
        raise UnsupportedModelError(
            f"This model is cut into {counted(stages, 'pipeline stage')}: a process has some of its blocks and passes "
            "the stream on, so no process could read or write at all sites. Cut each weight instead "
            "(tensor_parallel), spread the blocks over the devices of one process (device_map), or shard it by FSDP."
        )


def require_plan(processes: int, config: Any, source: str) -> None:
    """Find out whether transformers can cut a model over so many processes.

    Raises:
        ModelError: where it has no plan of it, or heads that don't come out even.
    """
    text = config.get_text_config()
    if not any(getattr(one, "base_model_tp_plan", None) for one in (config, text)):
        raise ModelError(
            f"transformers has no plan by which the weights of {source} ({config.model_type}) are cut over processes. "
            "Use device_map, or quantization."
        )
    heads = [("query", "num_attention_heads"), ("key and value", "num_key_value_heads")]
    numbers = [(what, number) for what, name in heads if isinstance(number := getattr(text, name, None), int)]
    # What divides all of them: a number that divides the query heads alone would be refused for the other ones.
    common = math.gcd(*(number for _, number in numbers))
    fit = [str(one) for one in range(2, common + 1) if common % one == 0]
    for what, number in numbers:
        if number % processes:
            raise ModelError(
                f"tensor_parallel: {source} has {counted(number, f'{what} head')}, which {processes} processes can't "
                f"share evenly. Use {' or '.join(fit) if fit else 'device_map'}."
            )
