"""A model of which enough is known that its weights are loaded when something has to be computed, and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steerkit.api.architecture import Layout
from steerkit.api.hookspecs import ModelFacts
from steerkit.engine.sites.behaviours import Behaviours
from steerkit.session.model import LiveModel
from steerkit.types.placement import PlacementFacts, weights_in_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steerkit.engine.prompts.chat import ChatFormat


@dataclass(frozen=True)
class Known:
    """What an earlier load of the same files found.

    Args:
        key: of everything that outputs of the model depend on.
        facts: the model as a run's provenance tells it, but for what it was called.
        layout: as its adapter declares it.
        adapter: the adapter's name.
        model_type: of transformers.
        config: the checkpoint's config as JSON values.
        special_tokens: texts of the tokenizer's special tokens.
        n_embeddings: token ids that have an embedding.
        n_logits: token ids that get a logit.
        context: most tokens that it reads; None where it doesn't say.
        device: where token ids go.
        dtype: of the weights, as recipes write it.
        weights_hash: of the weights' files.
    """

    key: str
    facts: Mapping[str, Any]
    layout: Layout
    adapter: str
    model_type: str
    config: Mapping[str, Any]
    special_tokens: tuple[str, ...]
    n_embeddings: int
    n_logits: int
    context: int | None
    device: str
    dtype: str
    weights_hash: str | None


class AwaitedModel(LiveModel):
    """A live model whose weights are loaded when they are first asked for, by whoever asks.

    Args:
        known: what is answered without them.
        tokenizer: the model's, or None.
        source: where it comes from.
        chat: how prompts become tokens, or None.
        batch_tokens: most tokens of a batch.
        load: loads the model, and sees to it that it is the one that is known.
    """

    def __init__(
        self,
        known: Known,
        tokenizer: PreTrainedTokenizerBase | None,
        source: str,
        chat: ChatFormat | None,
        batch_tokens: int,
        load: Callable[[], PreTrainedModel],
    ) -> None:
        self.known, self._load = known, load
        self._there: list[PreTrainedModel] = []  # a list, so that copies of this object load it once between them
        facts = ModelFacts(known.model_type, known.config, frozenset(known.special_tokens))
        self.tokenizer, self.layout, self.adapter_name, self.facts = tokenizer, known.layout, known.adapter, facts
        self.source, self._chat, self.batch_tokens = source, chat, batch_tokens
        self.weights_hash, self.share_beginnings, self.rows_leave = known.weights_hash, True, True
        self.behaviours = Behaviours(**known.facts.get("behaviours", {}))

    @property
    # Where other live models hold the model, this one gives it when it is asked, and nobody sets it.
    def model(self) -> PreTrainedModel:  # type: ignore[override]
        """The transformers model, loaded at the first look."""
        if not self._there:
            self._there.append(self._load())
        return self._there[0]

    def _weights_in_words(self) -> str:
        there = "" if self._there else ", not loaded yet"
        return weights_in_words(self.known.dtype, self.known.device, PlacementFacts.read(self.known.facts)) + there

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return torch.device(self.known.device)

    @property
    def n_embeddings(self) -> int:
        """How many token ids the model has an embedding for."""
        return self.known.n_embeddings

    @property
    def n_logits(self) -> int:
        """How many token ids the model gives a logit."""
        return self.known.n_logits

    @property
    def context(self) -> int | None:
        """Most tokens that the model reads; None where it doesn't say."""
        return self.known.context
