"""The model of a plan: what is known of it, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerkit.sources import TINY
from steerkit.types.placement import ModelPlacement
from steerkit.types.special_tokens import InText


@dataclass(frozen=True)
class PlannedModel:
    """What is known of the model before it is loaded.

    Args:
        source: as the recipe names it.
        model_type: of transformers, or None where no config is at hand.
        n_layers: number of blocks, or None.
        folder: where its config and tokenizer files are, or None.
        d_model: width of the residual stream, or None.
        context: most tokens that it reads, or None.
    """

    source: str
    model_type: str | None = None
    n_layers: int | None = None
    folder: Path | None = None
    d_model: int | None = None
    context: int | None = None

    @property
    def is_tiny(self) -> bool:
        """Whether it is a tiny random model, which is built wherever it is needed."""
        return self.source.startswith(TINY)


@dataclass(frozen=True)
class PlannedLoading:
    """How the model is loaded and prompted. See ``steerkit.load_model``.

    Args:
        source: a hub id, a folder, a file, or an alias.
        revision: of a hub repository, or None.
        adapter: name of the adapter, where the recipe names one.
        dtype: of the weights, or ``auto``.
        device: where they go, or ``auto``.
        chat_template: ``default``, ``none``, or the template itself.
        system_prompt: message before every prompt, or None.
        chat_template_arguments: the template's own variables.
        special_tokens_in_text: what becomes of a special token's text in what somebody says.
        trust_remote_code: whether code from the repository may run.
        accept_terms: whether the model's terms of use are accepted.
        batch_tokens: most tokens of a batch, padding included.
        placement: on which devices they lie, and in which form, where one device doesn't hold them as they are.
    """

    source: str
    revision: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    chat_template: str = "default"
    system_prompt: str | None = None
    chat_template_arguments: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_in_text: InText = "allow"
    trust_remote_code: bool = False
    accept_terms: bool = False
    batch_tokens: int = 4096
    placement: ModelPlacement = field(default_factory=ModelPlacement)
