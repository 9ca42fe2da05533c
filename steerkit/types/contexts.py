"""How many tokens a model reads at most, from its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LIMIT: Final = "max_position_embeddings"
ROPE: Final = ("rope_parameters", "rope_scaling")
"""Where configs say how positions are stretched: transformers of today, and of before."""

_STRETCHED: Final = frozenset({"yarn", "linear", "dynamic"})
"""Ways of stretching whose factor multiplies the context that the model was trained with. Where the config doesn't name
that one, it is what the config gives as the limit (as transformers has it)."""
_OWN_LOCAL: Final = "rope_local_base_freq"
"""Gemma 3's: its layers have positions of two kinds, and its limit is that of the stretched ones already."""

CONTEXT_KEYS: Final = (LIMIT, *ROPE, "original_max_position_embeddings", _OWN_LOCAL)
"""What of a config the limit depends on."""


def context_limit(config: Mapping[str, Any]) -> int | None:
    """Most tokens that a model reads, with the stretching that its config asks for; None where it doesn't say.

    Args:
        config: of the text model, as JSON values.
    """
    limit = config.get(LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int):
        return None
    rope = next((found for key in ROPE if isinstance(found := config.get(key), Mapping)), {})
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if _OWN_LOCAL in config or isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 1:
        return limit
    trained = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if not isinstance(trained, int):
        trained = limit if kind in _STRETCHED else 0
    # The limit may be the stretched one already.
    return max(limit, int(trained * factor))
