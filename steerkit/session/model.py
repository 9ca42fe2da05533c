"""What a Python user holds: a model that can be steered and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import PaddingSide
from steerkit.engine.reading.activations import Activations, read_activations
from steerkit.engine.reading.capture import capture
from steerkit.engine.reading.captured import Captured
from steerkit.engine.reading.lens import LogitLens, logit_lens
from steerkit.engine.reading.monitors import completions
from steerkit.engine.reading.streaming import Stream
from steerkit.engine.runtime.runtime import Runtime
from steerkit.errors import DataError, known_keywords
from steerkit.progress import Progress
from steerkit.session.shown import model_as_html, model_in_words
from steerkit.types import Positions, Site, SitePattern, as_sites, resolve_sites
from steerkit.types.placement import weights_in_words

if TYPE_CHECKING:
    from steerkit.api.monitor import Completion, Monitor
    from steerkit.engine.prompts.inputs import Prompts


class LiveModel(Runtime):
    """A model in memory, ready to be steered and read. Made by ``steerkit.load_model`` or ``steerkit.wrap``."""

    @known_keywords
    def capture(
        self,
        prompts: Prompts,
        sites: Sequence[Site | str] | Site | str,
        positions: Sequence[Positions | str | int] | Positions | str | int = -1,
        *,
        kind: StatisticsKind = "mean",
        padding_side: PaddingSide = "right",
        steer: Sequence[Steer] | None = None,
        progress: Progress | bool = True,
    ) -> Captured:
        """Statistics of activations, read while prompts go through the model.

        Args:
            prompts: texts, lists of messages, ``Example`` or token ids, one or several.
            sites: where, one or several.
            positions: at which tokens, one or several; -1 is the last one of the prompt.
            kind: ``mean`` of all tokens that positions name; ``moments``, also ``[d_model, d_model]`` second moments;
                ``rows``, also every vector, in the order of the prompts (memory then grows with their number).
            padding_side: of batches; values don't depend on it.
            steer: a condition for each prompt, as in ``generate``; what is active is read under too.
            progress: told how many prompts are done; True shows a bar at a terminal.

        Returns:
            statistics by ``(site, positions)``, in float64 on the CPU.

        Raises:
            SiteError: for a site that the model doesn't have.
            PositionError: for positions that prompts don't have.
            DataError: for what is no prompt.
        """
        chosen = positions if isinstance(positions, Sequence) and not isinstance(positions, str) else [positions]
        return capture(
            self,
            prompts,
            as_sites(sites),
            [Positions.parse(item) for item in chosen],
            kind=kind,
            padding_side=padding_side,
            steer=steer,
            progress=progress,
        )

    @known_keywords
    def activations(
        self,
        prompts: Prompts,
        sites: Sequence[Site | SitePattern | str] | Site | SitePattern | str,
        positions: Positions | str | int | list[int] | tuple[int, ...] = "all",
        *,
        steer: Sequence[Steer] | None = None,
        progress: Progress | bool = True,
    ) -> Activations:
        """Activations token by token, with the tokens that they belong to: for probes and for ``logit_lens``.

        All of them are kept, float32 on the CPU; ``capture`` keeps sums alone.

        Args:
            prompts: one or several, as of ``generate``; completions of examples are read where positions name them.
            sites: where to read, sites or patterns such as ``"blocks.*.resid_post"``.
            positions: which tokens; ``all`` are those of the template too.
            steer: a condition for each prompt, as in ``generate``; what is active is read under too.
            progress: told how many prompts are done; True shows a bar at a terminal.

        Raises:
            DataError: for no prompts, no token at these positions, or activations that aren't finite.
            PositionError: for a prompt that doesn't have the token of an index.
            SiteError: for no site, and for one that the model doesn't have.
        """
        chosen, which = resolve_sites(sites, self.layout.n_layers), Positions.parse(positions)
        return read_activations(self, prompts, chosen, which, steer=steer, progress=progress)

    def logit_lens(self, activations: Activations) -> LogitLens:
        """What each site would say next: its stream through the model's own final norm, head and soft cap.

        Args:
            activations: what ``activations`` gave at sites of the stream (``embed``, ``resid_pre``, ``resid_mid``,
                ``resid_post``).

        Raises:
            DataError: for anything else, or activations of another model.
            SiteError: for sites where there is a contribution or a head's output and not the stream.
        """
        return logit_lens(self, activations)

    def __repr__(self) -> str:
        return model_in_words(self, self._weights_in_words())

    def _repr_html_(self) -> str:
        return model_as_html(self, self._weights_in_words())

    def _weights_in_words(self) -> str:
        """Their dtype, and where they are."""
        from steerkit.engine.loading.placed import facts_of_placement

        found = facts_of_placement(self.model)
        return weights_in_words(str(self.model.dtype).removeprefix("torch."), str(self.device), found)

    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 64,
        steer: Sequence[Steer] | None = None,
        stream: Literal[False] = False,
        **kwargs: Any,
    ) -> list[str]: ...

    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 64,
        steer: Sequence[Steer] | None = None,
        stream: Literal[True],
        monitors: Sequence[Monitor] = (),
        **kwargs: Any,
    ) -> Stream: ...

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 64,
        steer: Sequence[Steer] | None = None,
        stream: bool = False,
        monitors: Sequence[Monitor] = (),
        **kwargs: Any,
    ) -> list[str] | Stream:
        """Complete prompts, greedily unless ``kwargs`` say otherwise. Special tokens are left out.

        Args:
            prompts: one or several, each a text, a list of messages ``{"role": ..., "content": ...}`` or an
                ``Example``, which the chat format renders up to where an answer begins (its completion is left out);
                or token ids, which are read as they are: a tensor ``[n, pos]``, or what a tokenizer gave.
            max_new_tokens: length of a completion in tokens.
            steer: a condition for each prompt (an intervention, a list of them, or None), all in shared batches. A
                prompt without one comes out as it would from a batch of the same shape with no steering at all, to
                the bit; in mixture-of-experts models, where rows share products, and beside a condition that the whole
                row decides (``from_token``, a gate at the prompt), where no beginning is shared, within about 1e-5 in
                float32.
            stream: give an iterator of ``TokenEvent``, one per token and row as it is written, instead of the texts. It
                is steered by what is active where it is made, and ends with the ``with steer`` block around it.
                Dropping it, or ``close()``, which waits, has it end behind the token that it is at.
            monitors: of a stream: what is read meanwhile. (``completions`` reads without one.)
            kwargs: for transformers' ``generate``; ``num_return_sequences=n`` gives n completions per prompt, in a row.
                ``stop_strings`` need no tokenizer beside them. A stream has no beams.

        Raises:
            DataError: for what is no prompt, and for a conversation that ends with the assistant's turn.
        """
        if stream is True:
            return Stream(self, prompts, monitors, max_new_tokens=max_new_tokens, steer=steer, **kwargs)
        if stream is not False:
            raise DataError(f"stream is True or False, not {stream!r}.")
        if monitors:
            raise DataError("Texts hold no readings. Use model.completions(..., monitors=...), or stream=True.")
        return super().generate(prompts, max_new_tokens=max_new_tokens, steer=steer, **kwargs)

    def completions(
        self,
        prompts: Prompts,
        *,
        monitors: Sequence[Monitor] = (),
        max_new_tokens: int = 64,
        steer: Sequence[Steer] | None = None,
        **kwargs: Any,
    ) -> list[Completion]:
        """Complete prompts as ``generate`` does, with token ids, why each ends, and what monitors read meanwhile.

        Reading costs a product per token and site, and no pass. The last token of a completion that its length ended
        is written and never read: its reading is NaN.

        Args:
            prompts: one or several, as of ``generate``.
            monitors: what is read.
            max_new_tokens: length of a completion in tokens.
            steer: a condition for each prompt, as in ``generate``; what is active is read under too.
            kwargs: for transformers' ``generate``. With monitors no beams and no drafts of other models.

        Raises:
            SiteError, AttachError: for a monitor that doesn't fit the model.
            DataError: for what is no prompt, and for a conversation that ends with the assistant's turn.
        """
        return completions(self, prompts, monitors, max_new_tokens=max_new_tokens, steer=steer, **kwargs)
