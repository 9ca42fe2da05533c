"""A live model in a few lines: what it is, how it is prompted, and which sites it has. Loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.layout_shown import layout_as_html
from steerkit.api.showing import card, folded, table
from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel


def model_in_words(live: LiveModel, weights: str) -> str:
    """Source, type, adapter, size, dtype and device; how prompts become tokens."""
    lines = [f"  {what}: {told}" for what, told in _facts(live, weights)]
    return "\n".join([f"LiveModel {live.source!r}", *lines])


def model_as_html(live: LiveModel, weights: str) -> str:
    """The same as a table, and the sites behind it."""
    rows = [list(fact) for fact in _facts(live, weights)]
    return card(f"LiveModel {live.source}", table([], rows, plain=2), folded("sites", layout_as_html(live.layout)))


def _facts(live: LiveModel, weights: str) -> list[tuple[str, str]]:
    layout, context = live.layout, live.context
    tokens = counted(live.n_embeddings, "token id")
    chat = live._chat
    prompts = "token ids only, since there is no tokenizer"
    if chat is not None:
        template = "texts as they are" if chat.name == "none" else f"chat template {chat.name}"
        prompts = template + ("" if chat.system_prompt is None else f", system prompt {chat.system_prompt[:60]!r}")
    return [
        ("model", f"{live.facts.model_type}, adapter {live.adapter_name}, {weights}"),
        ("size", f"{counted(layout.n_layers, 'block')}, d_model {layout.d_model}, {tokens}"),
        ("context", "not said" if context is None else counted(context, "token")),
        ("prompts", prompts),
    ]
