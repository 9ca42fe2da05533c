"""From what was captured of classes of examples to directions. An estimator sees no module and no hook."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias

from typing_extensions import TypeVar

from steerkit.api.hookspecs import NEGATIVE as NEGATIVE
from steerkit.api.hookspecs import POSITIVE as POSITIVE
from steerkit.api.hookspecs import Options
from steerkit.api.showing import brief, number
from steerkit.errors import counted
from steerkit.types import Example, Positions, Site

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.architecture import Layout
    from steerkit.api.intervention import Update
    from steerkit.types import TokenIds, TokenMask, Vectors

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """What was captured of one class of examples at one site and position.

    Args:
        count: number of tokens read (one per example where the position names one token).
        mean: ``[d_model]``, float64.
        second_moment: ``[d_model, d_model]``, float64, the mean of ``x xᵀ`` (not centred); only when asked for.
        rows: ``[count, d_model]``, in the order of the examples; only when asked for.
        tokens_per_prompt: ``[examples]``, how many of the rows are each example's; only with ``rows``.
    """

    count: int
    mean: Tensor
    second_moment: Tensor | None = None
    rows: Tensor | None = None
    tokens_per_prompt: Tensor | None = None

    def __repr__(self) -> str:
        told = [counted(self.count, "token"), f"mean of norm {number(float(self.mean.norm()))}"]
        told += [f"width {self.mean.shape[-1]}"]
        if self.second_moment is not None:
            told.append("second moment")
        if self.rows is not None and self.tokens_per_prompt is not None:
            told.append(f"rows {list(self.rows.shape)} of {counted(len(self.tokens_per_prompt), 'prompt')}")
        return f"ClassStatistics({', '.join(told)})"

    def prompt_means(self) -> Tensor:
        """One vector per example that has such a token, ``[examples, d_model]``: the mean over them. Needs ``rows``."""
        import torch

        if self.rows is None or self.tokens_per_prompt is None:
            raise ValueError("Prompt means need rows and tokens_per_prompt: say EstimatorNeeds(statistics='rows').")
        counts = self.tokens_per_prompt[self.tokens_per_prompt > 0]
        prompt = torch.arange(len(counts)).repeat_interleave(counts)
        total = torch.zeros(len(counts), self.rows.shape[1], dtype=torch.float64)
        return total.index_add_(0, prompt, self.rows.double()) / counts[:, None]


@dataclass(frozen=True, eq=False)
class PlacedUpdate:
    """An update that an estimator tries on the model through a handle.

    Args:
        update: what happens to the stream; gradients flow to its tensors.
        sites: where.
        positions: at which tokens.
    """

    update: Update
    sites: tuple[Site, ...]
    positions: Positions = Positions("all")

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True, eq=False)
class HandleOutputs:
    """What the model gave for examples, in their order and in the graph of the updates that were tried.

    Args:
        next_token_logits: ``[n, vocab]``, float32, after the last token of each prompt.
        logits: ``[n, pos, vocab]``, float32: row ``t`` predicts token ``t`` of the completion; None where no example
            has a completion.
        token_ids: ``[n, pos]``, the completions; None as ``logits``.
        token_mask: ``[n, pos]``, True at tokens of a completion, False where a row is filled up; None as ``logits``.
        captures: for each site and positions that were asked for the tokens ``[tokens, d_model]``, example by example,
            as they are behind the updates of that site.
        counts: beside ``captures``, how many of the tokens are each example's, ``[n]``.
    """

    next_token_logits: Tensor
    logits: Tensor | None = None
    token_ids: TokenIds | None = None
    token_mask: TokenMask | None = None
    captures: Mapping[tuple[Site, Positions], Tensor] = field(default_factory=dict)
    counts: Mapping[tuple[Site, Positions], Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self)

    def completion_log_probabilities(self) -> Tensor:
        """The log probability of each example's completion, ``[n]``, in nats: a sum over its tokens.

        Raises:
            ValueError: where no example has a completion.
        """
        if self.logits is None or self.token_ids is None or self.token_mask is None:
            raise ValueError("None of the examples has a completion. Give them one, or use next_token_logits.")
        chosen = self.logits.log_softmax(-1).gather(-1, self.token_ids[..., None])[..., 0]
        return chosen.masked_fill(~self.token_mask, 0.0).sum(-1)


class ModelHandle(Protocol):
    """A model as an estimator may use it: examples in, logits and captures out. Never a module, never a hook.

    The model is in eval mode, its parameters get no gradient, and it comes out as it went in.
    """

    @property
    def seed(self) -> int:
        """What an estimator draws from, so that one recipe gives one direction."""
        ...

    @property
    def device(self) -> Any:
        """Where logits and captures are; an update may lie anywhere."""
        ...

    def run(
        self,
        examples: Sequence[Example],
        placements: Sequence[PlacedUpdate] = (),
        *,
        capture: Sequence[tuple[Site, Positions]] = (),
    ) -> HandleOutputs:
        """Run examples as one batch under updates of the estimator's own.

        Args:
            examples: conversations, each perhaps with a completion to be read. Memory grows with their number.
            placements: in the order in which they act where they meet; empty for the plain model.
            capture: sites and positions to read.

        Raises:
            DataError: for no examples.
            SiteError, AttachError, PositionError: where an update or a capture doesn't fit the model.
        """
        ...


def _untold(done: int, of: int) -> None:
    """Nobody waits."""


@dataclass(frozen=True, eq=False)
class EstimationRequest:
    """What an estimator is given: all that its needs name, and nothing else.

    Args:
        sites: where directions are wanted, in the order of a forward pass.
        positions: at which tokens.
        layout: the model's streams.
        seed: what it draws from.
        examples: by class; of pairs, the examples of one place in both classes belong together.
        statistics: by site and class; empty where the needs name none.
        differences: by site, positive minus negative of each pair, ``[pairs, d_model]``, each side the mean over its
            tokens; only for ``paired_rows``.
        model: runs examples under the estimator's own updates; only where the needs ask for it.
        progress: to be told how many sites (or steps) are done, and of how many, where estimating takes long.
    """

    sites: tuple[Site, ...]
    positions: Positions
    layout: Layout
    seed: int = 0
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    statistics: Mapping[Site, Mapping[str, ClassStatistics]] = field(default_factory=dict)
    differences: Mapping[Site, Tensor] = field(default_factory=dict)
    model: ModelHandle | None = None
    progress: Callable[[int, int], None] = _untold

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class Series:
    """Numbers along something: a loss by step, an accuracy by site.

    Args:
        values: the numbers; NaN where something wasn't measured.
        at: what each belongs to; counted from 0 where it is empty.
        over: what ``at`` is, as in ``step`` or ``site``.
    """

    values: tuple[float, ...]
    at: tuple[float | str, ...] = ()
    over: str = "step"

    def __post_init__(self) -> None:
        if self.at and len(self.at) != len(self.values):
            raise ValueError(
                f"A series has {counted(len(self.values), 'value')} at {counted(len(self.at), 'place')} of {self.over}."
            )


Diagnostic: TypeAlias = float | Sequence[float] | Series


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator found.

    Args:
        vectors: the main direction, ``{site: [rank, d_model]}``, raw, at one or several of the request's sites.
        reference_means: ``{site: [d_model]}``; by default the mean of the reference class where it was captured.
        extra: further directions by name, ``{name: {site: [rank, d_model]}}``, as the needs' ``outputs`` say.
        diagnostics: what a reader should know of how it went: explained variance, accuracy, loss.
    """

    vectors: Mapping[Site, Vectors]
    reference_means: Mapping[Site, Tensor] | None = None
    extra: Mapping[str, Mapping[Site, Vectors]] = field(default_factory=dict)
    diagnostics: Mapping[str, Diagnostic] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self)

    def diagnostics_as_json(self) -> dict[str, Any]:
        """The diagnostics as JSON values: numbers, or ``{"values", "at", "over"}``; null where nothing was measured."""
        return {name: _as_json(value) for name, value in self.diagnostics.items()}


def _as_json(value: Diagnostic) -> Any:
    if isinstance(value, Series):
        at = list(value.at) or list(range(len(value.values)))
        return {"values": [_number(one) for one in value.values], "at": at, "over": value.over}
    if isinstance(value, Sequence):
        return _as_json(Series(tuple(value)))
    return _number(value)


def _number(value: float) -> float | None:
    plain = float(value)
    return plain if math.isfinite(plain) else None


class Estimator(ABC, Generic[OptionsT]):
    """Turns what was captured of classes into the vectors of directions.

    Prove a new one with ``steerkit.testing.EstimatorSuite``.
    """

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def estimate(self, request: EstimationRequest) -> Estimate:
        """Estimate a direction at every site of the request, or at those of them that the estimator chooses.

        The same request gives the same bits. A direction between two classes points to ``positive``.

        Raises:
            DataError: where the data don't determine a direction: an empty class, NaN or infinite values, classes
                that are alike. ``steerkit.testing.EstimatorSuite`` holds you to it.
        """
