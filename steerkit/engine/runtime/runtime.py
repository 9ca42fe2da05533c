"""A model in memory with its layout and chat format: read it, steer it, generate with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerkit.api.intervention import Intervention, Placement
from steerkit.engine.hooking.prepared import Prepared, Where
from steerkit.engine.loading.qwen1_config import require_trained
from steerkit.engine.lowering.edits import Mode, Steer, placements_to_lower, require_mode
from steerkit.engine.lowering.explain import Explanation, explain
from steerkit.engine.prompts.batches import Batch, forward_arguments, pad, position_ids
from steerkit.engine.prompts.known import require_token_ids
from steerkit.engine.runtime.beginning import complete_batch
from steerkit.engine.runtime.blocks import Group
from steerkit.engine.runtime.entering import entered
from steerkit.engine.runtime.generation import require_new_tokens
from steerkit.engine.runtime.model import ModelInMemory
from steerkit.engine.runtime.steering import Steering, require_rows
from steerkit.engine.sequence.finding import finder
from steerkit.engine.sequence.positions import frame_of_mask, goes_on
from steerkit.engine.sequence.sequences import cache_among, columns_read
from steerkit.engine.sequence.tally import begin_batch
from steerkit.engine.sites.taps import Handler
from steerkit.errors import AttachError, DataError, known_keywords
from steerkit.progress import SILENT, Progress
from steerkit.types import Site

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from steerkit.engine.prompts.chat import Rendered
    from steerkit.engine.prompts.inputs import Prompts


@dataclass(eq=False)
class Runtime(ModelInMemory):
    """A model in memory, and the passes that serve requests. ``ModelInMemory`` says what it is made of."""

    @cached_property
    def steering(self) -> Steering:
        """What steers the model at the moment."""
        return Steering(self.model, self.layout, finder(self.tokenizer))

    # Steering

    @entered
    @known_keywords
    def steer(
        self, *interventions: Placement | Intervention, mode: Mode = "auto", expected_tokens: int = 0
    ) -> Iterator[Runtime]:
        """Run the body under interventions; the model that comes out is the one that went in.

        Nested calls add up, outer ones first. Passes through this object (``generate``, ``forward``, ``capture``)
        know where prompts end; under ``hf_model.generate`` nobody does, so use positions there that don't
        count from the prompt's end. ``generate`` takes all that it takes. Without ``with`` nothing is steered, and a
        warning says so.

        Args:
            interventions: in the order in which they act where they meet.
            mode: how they are lowered. ``fold`` puts what is exact into weights and biases and hooks the rest;
                ``hook`` touches no parameter; ``auto`` folds constants, and matrices where that pays for
                ``expected_tokens``; ``interpret`` carries definitions out literally, token by token, for comparison.
            expected_tokens: how many tokens will pass, prompts included.

        Vectors and coefficients are read when the block is entered: to train them, enter it anew for each step. A
        parameter that something is folded into gets no gradient meanwhile; ``mode="hook"`` leaves all as they are.

        A checkpoint or a copy of the model that is made inside is that of the plain model, and what is loaded, moved
        or cast inside stays so behind the block. Freeze parameters, and write into them, outside of it.

        Raises:
            SiteError, AttachError, PositionError: where an intervention doesn't fit; nothing is attached then.
            AttachError: at the end, where a parameter that something was folded into was written into meanwhile.
        """
        with self.steering.steer(self._group(interventions, mode, expected_tokens)):
            yield self

    @entered
    @known_keywords
    def steer_rows(self, conditions: Sequence[Steer], *, mode: Mode = "hook") -> Iterator[Runtime]:
        """Run the body with a condition for each row of its batches, None where a row is left alone.

        For passes of one's own; ``generate``, ``forward`` and ``capture`` take ``steer=`` and see to the rest. A batch
        of n times as many rows holds n copies of each row side by side, as beams do.

        Raises:
            SiteError, AttachError, PositionError: as ``steer``.
        """
        require_mode(mode)
        require_rows(conditions, len(conditions))
        with self.steering.steer(Group.of_rows(conditions, mode)):
            yield self

    @entered
    @known_keywords
    def prepare(
        self, sites: Where | Sequence[Where] | None = None, *, rank: int = 1, rows: int = 1
    ) -> Iterator[Runtime]:
        """Make a model that torch.compile compiles ready to be steered: what steers may change, the graph stays.

        Inside, ``steer``, ``steer_rows`` and ``steer=`` copy their vectors into buffers that the compiled graph reads,
        so that nothing is compiled anew. Enter it before the model runs compiled. While nothing steers, outputs equal
        those of the model without it. Without ``prepare`` a compiled model can be steered as well, and each program
        that is put on it is compiled anew. ::

            live.model.compile()
            with live.prepare():
                for coefficient in (2.0, 4.0, 8.0):
                    with live.steer(steerkit.add(direction, coefficient=coefficient)):
                        live.generate(prompts, cache_implementation="static")

        The buffers hold what is affine and acts at every token of a pass with a constant coefficient. They edit every
        token of a pass: to spare the prompt, enter ``steer`` after the prefill. All else is refused inside, with what
        to do. Passes that read activations are not compiled.

        Args:
            sites: where steering will act: sites, or interventions that say where they need it. None: the embedding,
                whatever blocks write, and every block's output. Each place costs a little in every pass.
            rank: most directions that an update at one place reads; 0: only constants are added. At least what given
                interventions need.
            rows: rows of a batch that get conditions of their own, by ``steer_rows`` or ``steer=``. Batches have that
                many rows then, or n times as many, n copies of each side by side.

        Raises:
            AttachError: while the model is being steered or prepared already.
            SiteError: for a site that the model doesn't have.
        """
        with self.steering.prepare(Prepared(self.model, self.layout, sites, rank, rows)):
            yield self

    @known_keywords
    def explain(
        self, *interventions: Placement | Intervention, mode: Mode = "auto", expected_tokens: int = 0
    ) -> Explanation:
        """What ``steer`` would make of interventions, and what each costs per token. Printed, it is a table."""
        group = self._group(interventions, mode, expected_tokens)
        return explain(self.steering.explained(group), self.model, self.layout)

    def _group(self, steer: tuple[Placement | Intervention, ...], mode: Mode, expected_tokens: int) -> Group:
        require_mode(mode)
        number: object = expected_tokens
        if isinstance(number, bool) or not isinstance(number, Real) or not float(number) >= 0:
            raise AttachError(f"expected_tokens is how many tokens will pass, 0 or more, not {number!r}.")
        return Group(placements_to_lower(steer), mode, expected_tokens)

    @contextmanager
    def running(
        self, batch: Batch, *, steer: Sequence[Steer] | None = None, readers: Mapping[Site, Handler] | None = None
    ) -> Iterator[None]:
        """Run passes over a batch: an attached program is told where its prompts lie.

        Args:
            batch: the batch.
            steer: a condition for each text that was batched, not for each row: the batch knows which is where.
            readers: handlers of values at sites.
        """
        if self.steering.by_row:
            raise AttachError(
                "steer_rows is for passes of your own: here prompts are sorted into batches, so that its rows aren't "
                "theirs. Pass the conditions as steer=, one for each prompt."
            )
        rows = None if steer is None else [steer[index] for index in batch.order]
        prompt = forward_arguments(batch, self.takes_positions)
        with self.steering.running(batch.frame, steer=rows, readers=readers, prompt=prompt):
            begin_batch(batch.order)
            yield

    # Passes

    def forward(
        self,
        input_ids: Tensor | Prompts,
        attention_mask: Tensor | None = None,
        *,
        prompt_lengths: Sequence[int] | None = None,
        steer: Sequence[Steer] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """A bare forward pass. Padding may be on either side; ``position_ids`` are set for left padding.

        Args:
            input_ids: ``[batch, pos]``, int32 or int64; or prompts as of ``generate``, which become one batch, padded
                on the left, so that ``logits[:, -1]`` predict the first token of each answer. A completion is read
                behind its prompt.
            attention_mask: ``[batch, pos]``, 1 at real tokens, with a cache of all columns so far; None where all are.
            prompt_lengths: tokens of each row's prompt, for positions that depend on it. With a cache give them
                with every pass.
            steer: a condition for each row, None where it is left alone.
            kwargs: for the model.

        Raises:
            DataError: for a tensor that holds no token ids, for what is no prompt, and for prompts of unequal length
                that would have to be padded for a model that padding changes.
        """
        if not isinstance(input_ids, Tensor):
            return self._forward_prompts(input_ids, attention_mask, prompt_lengths, steer, kwargs)
        require_token_ids(input_ids, self.n_embeddings)
        require_rows(steer, input_ids.shape[0])
        cache = cache_among(kwargs)
        if attention_mask is None:
            seen = columns_read(cache, WeakKeyDictionary())
            mask = torch.ones(input_ids.shape[0], seen + input_ids.shape[1], device=input_ids.device)
        else:
            mask = attention_mask
        frame = None
        if prompt_lengths is not None:
            # With a cache a sequence goes on: where it will end nobody knows, so nothing may count from there.
            frame = frame_of_mask(mask, prompt_lengths, growing=cache is not None and goes_on(mask))
        padded = attention_mask is not None and not bool(mask[:, 0].all())
        if padded and "position_ids" not in kwargs and self.takes_positions:
            kwargs["position_ids"] = position_ids(mask)[:, -input_ids.shape[1] :]
        require_trained(self.model.config, mask.shape[1])
        prompt = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": kwargs.get("position_ids")}
        begins = mask.shape[1] == input_ids.shape[1]
        with self.steering.running(frame, steer=steer, prompt=prompt if begins else None):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)  # type: ignore[no-any-return]

    def _forward_prompts(
        self,
        prompts: Prompts,
        attention_mask: Tensor | None,
        prompt_lengths: Sequence[int] | None,
        steer: Sequence[Steer] | None,
        arguments: dict[str, Any],
    ) -> CausalLMOutputWithPast:
        """A pass over prompts: where they end, and whose the tokens are, is known."""
        if attention_mask is not None or prompt_lengths is not None or "past_key_values" in arguments:
            raise DataError("attention_mask, prompt_lengths and past_key_values go with a tensor of token ids only.")
        rendered = self.rendered(prompts, completion=True)
        if not rendered:
            raise DataError("There are no prompts to read.")
        require_rows(steer, len(rendered))
        self.require_fitting(rendered)
        if not self.behaviours.left_padding and len({len(one.token_ids) for one in rendered}) > 1:
            raise DataError(
                "These prompts are of unequal length, and this model reads a prompt that is padded otherwise than "
                "alone, so they share no pass. Call forward once for each length."
            )
        batch = pad(rendered, tuple(range(len(rendered))), "left", self.pad_id, self.device)
        arguments_of_batch = forward_arguments(batch, self.takes_positions)
        tensors = {key: value for key, value in arguments_of_batch.items() if key != "use_cache"}
        with self.running(batch, steer=steer):
            return self.model(**tensors, **arguments)  # type: ignore[no-any-return]

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 64,
        steer: Sequence[Steer] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Complete prompts; see ``LiveModel.generate``."""
        completions = self.complete(prompts, max_new_tokens=max_new_tokens, steer=steer, **kwargs)
        return [self.decode(ids) for ids in completions]

    def complete(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        steer: Sequence[Steer] | None = None,
        progress: Progress = SILENT.progress,
        **kwargs: Any,
    ) -> list[list[int]]:
        """Token ids of completions, in the order of the prompts, up to and without the end token. See ``generate``."""
        rendered = self.to_complete(prompts, max_new_tokens, steer)
        found: dict[int, list[list[int]]] = {}
        for batch in self.batched(rendered, "left", extra_tokens=max_new_tokens):
            rows = complete_batch(self, batch, max_new_tokens=max_new_tokens, settings=kwargs, steer=steer)
            copies = len(rows) // len(batch.order)
            for place, index in enumerate(batch.order):
                found[index] = [one.ids for one in rows[place * copies : (place + 1) * copies]]
            progress(len(found), len(rendered))
        return [ids for index in range(len(rendered)) for ids in found[index]]

    def to_complete(self, prompts: Prompts, max_new_tokens: int, steer: Sequence[Steer] | None) -> list[Rendered]:
        """Prompts as the model reads them before it completes them.

        Raises:
            DataError: for what is no prompt, none at all, one that is answered already, and a length that is none.
            AttachError: where there isn't one condition for each.
        """
        rendered = self.rendered(prompts)
        if not rendered:
            raise DataError("There are no prompts to complete.")
        require_rows(steer, len(rendered))
        for prompt in rendered:
            prompt.require_open()
        require_new_tokens(max_new_tokens)
        return rendered
