"""What a Python user holds: a model that can be steered and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.prompts.batches import PaddingSide
from steerkit.engine.reading.capture import Key, capture
from steerkit.engine.reading.monitors import completions
from steerkit.engine.reading.streaming import Stream
from steerkit.engine.runtime.runtime import Runtime
from steerkit.errors import DataError, known_keywords
from steerkit.progress import Progress
from steerkit.types import Positions, Site, as_sites

if TYPE_CHECKING:
    from steerkit.api.estimator import ClassStatistics
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
    ) -> dict[Key, ClassStatistics]:
        """Statistics of activations. See ``steerkit.engine.reading.capture.capture``."""
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
