"""Whether a model knows the tokens that a tokenizer gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.errors import ModelError

if TYPE_CHECKING:
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
