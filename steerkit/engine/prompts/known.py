"""Whether a model knows the tokens that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from steerkit.errors import DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.engine.prompts.chat import Rendered


def require_known(rendered: Sequence[Rendered], vocabulary: int | None) -> None:
    """Raise ``ModelError`` for a token that the model has no embedding of, as another model's tokenizer gives them.

    Args:
        rendered: the prompts.
        vocabulary: how many tokens the model embeds; None where nobody knows.
    """
    if vocabulary is None:
        return
    for prompt in rendered:
        most = max(prompt.token_ids, default=0)
        if most >= vocabulary:
            raise ModelError(
                f"The tokenizer gives token {most}, and the model embeds {vocabulary:,} tokens, 0 to {vocabulary - 1}: "
                "they don't belong together. Load the model with the tokenizer that it was trained with."
            )


def require_token_ids(input_ids: Tensor, vocabulary: int) -> None:
    """Raise ``DataError`` for a tensor that a pass can't read as token ids.

    Args:
        input_ids: what somebody passes as ``[batch, pos]``.
        vocabulary: how many tokens the model embeds.
    """
    if input_ids.dtype not in (torch.int64, torch.int32) or input_ids.ndim != 2 or not input_ids.numel():
        raise DataError(
            f"A tensor of prompts holds token ids, int64 or int32 [batch, pos]; this one is {input_ids.dtype} "
            f"{list(input_ids.shape)}."
        )
    if input_ids.device.type != "cpu":
        return  # looking at them would wait for the device
    least, most = (int(end) for end in input_ids.aminmax())
    if least < 0 or most >= vocabulary:
        odd = least if least < 0 else most
        raise DataError(f"Token id {odd} is none of the model's {vocabulary}. Encode prompts with its own tokenizer.")
