"""A model in memory with its layout and chat format: what is known of it, and how prompts become its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.api.hookspecs import ModelFacts
from steerkit.engine.loading.unwrap import input_device
from steerkit.engine.prompts.batches import Batch, PaddingSide, batches
from steerkit.engine.prompts.fitting import require_fitting
from steerkit.engine.prompts.inputs import read_prompts
from steerkit.engine.prompts.known import require_known
from steerkit.engine.prompts.vocabulary import TokenizerVocabulary
from steerkit.engine.sites.behaviours import EXPECTED, Behaviours, takes_positions
from steerkit.engine.sites.taps import submodule
from steerkit.errors import ModelError
from steerkit.types.contexts import CONTEXT_KEYS, context_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steerkit.engine.prompts.chat import ChatFormat, Rendered
    from steerkit.engine.prompts.inputs import Prompts


@dataclass(eq=False)
class ModelInMemory:
    """A transformers model with what is known of it. Nothing here runs it.

    Args:
        model: the transformers model. Whatever its mode, measurements run it in eval mode.
        tokenizer: its tokenizer, or None.
        layout: its streams, as its adapter declares them.
        adapter_name: the adapter.
        facts: what the checkpoint says about itself.
        source: where it came from.
        _chat: how prompts become tokens, or None without a tokenizer; read it as ``chat``.
        batch_tokens: most tokens of a batch.
        weights_hash: sha256 of the weights' files, or None.
        share_beginnings: whether what the prompts of a batch have in common at their beginning is computed once, where
            that is exact. False reads every prompt whole.
        rows_leave: whether rows leave a batch of completions once they have ended, where that is exact.
        behaviours: what passes may rely on, as the self-test found it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    layout: Layout
    adapter_name: str
    facts: ModelFacts
    source: str
    _chat: ChatFormat | None
    batch_tokens: int = 4096
    weights_hash: str | None = None
    share_beginnings: bool = True
    rows_leave: bool = True
    behaviours: Behaviours = EXPECTED

    @property
    def hf_model(self) -> PreTrainedModel:
        """The transformers model itself."""
        return self.model

    @property
    def chat(self) -> ChatFormat:
        """How prompts become tokens. Raises ``ModelError`` where the model came without a tokenizer."""
        if self._chat is None:
            raise ModelError(
                "This model came without a tokenizer, so it takes token ids only. "
                "Pass one: steerkit.wrap(model, tokenizer)."
            )
        return self._chat

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return input_device(self.model)

    @property
    def pad_id(self) -> int:
        """The token that fills rows up; masked everywhere, so any id would do."""
        known = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        # A tokenizer may have got a padding token that the model has no embedding for.
        return next((int(token) for token in known if token is not None and token < self.n_embeddings), 0)

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        """The tokenizer as evaluators see it."""
        return TokenizerVocabulary(self.chat.tokenizer, self.n_logits)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return str(self.chat.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def rendered(self, prompts: Prompts, *, completion: bool = False) -> list[Rendered]:
        """Prompts as the model reads them; those that are rendered already are left as they are.

        Args:
            prompts: see ``generate``.
            completion: whether the completions of examples follow them.
        """
        return read_prompts(prompts, lambda: self.chat, vocabulary=self.n_embeddings, completion=completion)

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the model is told where tokens stand; else it counts for itself, by the attention mask."""
        return takes_positions(submodule(self.model, self.layout.base))

    @property
    def n_embeddings(self) -> int:
        """How many token ids the model has an embedding for."""
        return cast(Tensor, self.model.get_input_embeddings().weight).shape[0]

    @property
    def n_logits(self) -> int:
        """How many token ids the model gives a logit."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int | None:
        """Most tokens that the model reads; None where it doesn't say."""
        config = self.model.config.get_text_config()
        return context_limit({key: vars(config)[key] for key in CONTEXT_KEYS if key in vars(config)})

    def batched(
        self, rendered: Sequence[Rendered], side: PaddingSide, *, extra_tokens: int = 0, fine: bool = False
    ) -> list[Batch]:
        """Cut rendered prompts into batches by the model's token budget.

        Args:
            rendered: the prompts.
            side: where padding goes.
            extra_tokens: columns that each row will grow by.
            fine: cut on a CPU into rows of like length, where a pass costs little beside its tokens.

        Prompts of unequal length share no batch of a model that padding there isn't harmless to.

        Raises:
            DataError: for a prompt without a token, or one that is longer than the model's context.
        """
        self.require_fitting(rendered, extra_tokens)
        return batches(
            rendered,
            batch_tokens=self.batch_tokens,
            padding_side=side,
            pad_id=self.pad_id,
            device=self.device,
            extra_tokens=extra_tokens,
            fine=fine and self.device.type == "cpu",
            of_one_length=not self.behaviours.pads(side),
        )

    def require_fitting(self, rendered: Sequence[Rendered], extra_tokens: int = 0) -> None:
        """Raise ``DataError`` for a prompt without a token, or one that is longer than the model's context."""
        require_fitting(rendered, self.context, extra_tokens, self.decode if self.tokenizer is not None else None)
        require_known(rendered, self.n_embeddings)
