"""A model in memory with its layout and chat format: read it, steer it, generate with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.api.hookspecs import ModelFacts, StatisticsKind
from steerkit.api.intervention import Intervention
from steerkit.engine.attach import Cursor, attached
from steerkit.engine.batches import Batch, PaddingSide, batches, position_ids
from steerkit.engine.capture import Key, capture
from steerkit.engine.generation import generate_batch
from steerkit.engine.positions import Frame, frame_of_mask
from steerkit.engine.program import lower
from steerkit.engine.progress import SILENT, Progress
from steerkit.engine.vocabulary import TokenizerVocabulary
from steerkit.errors import AttachError, DataError, ModelError
from steerkit.types import Positions, Site, as_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from steerkit.api.estimator import ClassStatistics
    from steerkit.engine.chat import ChatFormat, Rendered


@dataclass(eq=False)
class LiveModel:
    """What a Python user holds. Made by ``steerkit.load_model`` or ``steerkit.wrap``.

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
    _active: list[list[Intervention]] = field(default_factory=list)
    _attachment: ExitStack | None = None
    _cursor: Cursor | None = None

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
        return cast(Tensor, self.model.get_input_embeddings().weight).device

    @property
    def pad_id(self) -> int:
        """The token that fills rows up; masked everywhere, so any id would do."""
        known = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        # A tokenizer may have got a padding token that the model has no embedding for.
        rows = cast(Tensor, self.model.get_input_embeddings().weight).shape[0]
        return next((int(token) for token in known if token is not None and token < rows), 0)

    @property
    def vocabulary(self) -> TokenizerVocabulary:
        """The tokenizer as evaluators see it."""
        return TokenizerVocabulary(self.chat.tokenizer, int(self.model.get_output_embeddings().weight.shape[0]))

    # Steering

    @contextmanager
    def steer(self, *interventions: Intervention) -> Iterator[LiveModel]:
        """Run the body under interventions; the model that comes out is the one that went in.

        Nested calls add up, outer ones first. Passes through this object (``generate``, ``forward``, ``capture``)
        know where prompts end; under ``hf_model.generate`` nobody does, so use positions there that don't
        count from the prompt's end.

        Raises:
            SiteError, AttachError, PositionError: where an intervention doesn't fit; nothing is attached then.
        """
        strangers = [item for item in interventions if not isinstance(item, Intervention)]
        if strangers:
            raise AttachError(
                f"steer takes interventions, one after the other, not {type(strangers[0]).__name__}. "
                "Build one with steerkit.add, steerkit.ablate or steerkit.intervention; unpack a list with *."
            )
        mine = list(interventions)
        try:
            self._reattach([*self._active, mine])
            yield self
        finally:
            # By identity: contexts that a generator holds open may close in any order.
            self._reattach([group for group in self._active if group is not mine])

    def _reattach(self, active: list[list[Intervention]]) -> None:
        """Attach one program for all active interventions, so that they meet in one hook per module."""
        program = lower([item for group in active for item in group], self.layout)
        if self._attachment is not None:
            self._attachment.close()
        self._attachment = self._cursor = None
        self._active = active
        if program.slots:
            stack = ExitStack()
            self._cursor = stack.enter_context(attached(self.model, self.layout, program))
            self._attachment = stack

    @contextmanager
    def framed(self, frame: Frame | None) -> Iterator[None]:
        """Tell an attached program where the prompts of the passes in the body lie."""
        if self._cursor is None:
            yield
            return
        cursor, before = self._cursor, self._cursor.frame
        cursor.set_frame(frame)
        try:
            yield
        finally:
            cursor.set_frame(before)

    # Passes

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        prompt_lengths: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """A bare forward pass. Padding may be on either side; ``position_ids`` are set for left padding.

        Args:
            input_ids: ``[batch, pos]``.
            attention_mask: ``[batch, pos]``, 1 at real tokens; None where all are.
            prompt_lengths: tokens of each row's prompt, for positions that depend on it.
            kwargs: for the model.
        """
        if attention_mask is None:
            cache = kwargs.get("past_key_values")
            seen = int(cache.get_seq_length()) if cache is not None else 0
            mask = torch.ones(input_ids.shape[0], seen + input_ids.shape[1], device=input_ids.device)
        else:
            mask = attention_mask
        frame = frame_of_mask(mask, prompt_lengths) if prompt_lengths is not None else None
        if attention_mask is not None and "position_ids" not in kwargs and not bool(mask[:, 0].all()):
            kwargs["position_ids"] = position_ids(mask)[:, -input_ids.shape[1] :]
        with self.framed(frame):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)  # type: ignore[no-any-return]

    def generate(self, prompts: str | Sequence[str], *, max_new_tokens: int = 64, **kwargs: Any) -> list[str]:
        """Complete prompts, greedily unless ``kwargs`` say otherwise. Special tokens are left out.

        Args:
            prompts: one text or several; the chat format renders them.
            max_new_tokens: length of a completion in tokens.
            kwargs: for transformers' ``generate``; ``num_return_sequences=n`` gives n completions per prompt, in a row.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return [self.decode(ids) for ids in self.complete(texts, max_new_tokens=max_new_tokens, **kwargs)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        assert self.tokenizer is not None  # whoever holds ids of a completion came through the chat format
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        progress: Progress = SILENT.progress,
        **kwargs: Any,
    ) -> list[list[int]]:
        """Token ids of completions, in the order of the prompts, up to and without the end token."""
        if not prompts:
            raise DataError("There are no prompts to complete.")
        rendered = [self.chat.render(prompt) for prompt in prompts]
        found: dict[int, list[list[int]]] = {}
        for batch in self.batched(rendered, "left", extra_tokens=max_new_tokens):
            with self.framed(batch.frame):
                rows = generate_batch(
                    self.model, batch, max_new_tokens=max_new_tokens, pad_id=self.pad_id, settings=kwargs
                )
            copies = len(rows) // len(batch.order)
            for place, index in enumerate(batch.order):
                found[index] = rows[place * copies : (place + 1) * copies]
            progress(len(found), len(prompts))
        return [ids for index in range(len(prompts)) for ids in found[index]]

    def batched(self, rendered: Sequence[Rendered], side: PaddingSide, *, extra_tokens: int = 0) -> list[Batch]:
        """Cut rendered prompts into batches by the model's token budget.

        Raises:
            DataError: for a prompt without a token, or one that is longer than the model's context.
        """
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for prompt in rendered:
            length = len(prompt.token_ids)
            if length == 0:
                raise DataError("A prompt has no token at all: its text is empty, and nothing is put around it.")
            if limit is not None and length + extra_tokens > limit:
                more = f" and {extra_tokens} to generate" if extra_tokens else ""
                raise DataError(
                    f"A prompt of {length} tokens{more} are more than the model's context of {limit}. "
                    f"Shorten it or leave it out: {self.decode(prompt.token_ids[:24])!r}…"
                )
        return batches(
            rendered,
            batch_tokens=self.batch_tokens,
            padding_side=side,
            pad_id=self.pad_id,
            device=self.device,
            extra_tokens=extra_tokens,
        )

    # Reading

    def capture(
        self,
        prompts: Sequence[str],
        sites: Sequence[Site | str] | Site | str,
        positions: Sequence[Positions | str | int] | Positions | str | int = -1,
        *,
        kind: StatisticsKind = "mean",
        padding_side: PaddingSide = "right",
        progress: Progress | bool = True,
    ) -> dict[Key, ClassStatistics]:
        """Statistics of activations. See ``steerkit.engine.capture.capture``."""
        chosen = positions if isinstance(positions, Sequence) and not isinstance(positions, str) else [positions]
        return capture(
            self,
            [prompts] if isinstance(prompts, str) else list(prompts),
            as_sites(sites),
            [Positions.parse(item) for item in chosen],
            kind=kind,
            padding_side=padding_side,
            progress=progress,
        )
