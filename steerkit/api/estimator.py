"""From statistics of prompt classes to directions. An estimator never sees a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from steerkit.api.hookspecs import Options

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Vectors

OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """What was captured of one prompt class at one site and position.

    Args:
        count: number of tokens read (one per prompt where the position names one token).
        mean: ``[d_model]``, float64.
        second_moment: ``[d_model, d_model]``, float64, the mean of ``x xᵀ`` (not centred); only when asked for.
        rows: ``[count, d_model]``, in the order of the prompts; only when asked for.
        tokens_per_prompt: ``[prompts]``, how many of the rows are each prompt's; only with ``rows``.
    """

    count: int
    mean: Tensor
    second_moment: Tensor | None = None
    rows: Tensor | None = None
    tokens_per_prompt: Tensor | None = None

    def prompt_means(self) -> Tensor:
        """One vector per prompt that has such a token, ``[prompts, d_model]``: the mean over them. Needs ``rows``."""
        import torch

        if self.rows is None or self.tokens_per_prompt is None:
            raise ValueError(
                "Prompt means need rows and tokens_per_prompt: say statistics='rows' in the EstimatorSpec."
            )
        counts = self.tokens_per_prompt[self.tokens_per_prompt > 0]
        prompt = torch.arange(len(counts)).repeat_interleave(counts)
        total = torch.zeros(len(counts), self.rows.shape[1], dtype=torch.float64)
        return total.index_add_(0, prompt, self.rows.double()) / counts[:, None]


class Estimator(ABC, Generic[OptionsT]):
    """Turns class statistics into the vectors of a direction."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def estimate(self, classes: Mapping[str, ClassStatistics]) -> Vectors:
        """Estimate from classes ``positive`` and ``negative`` (the reference).

        Returns:
            ``[rank, d_model]``, raw.

        Raises:
            DataError: where the statistics don't determine a direction: an empty class, NaN or infinite
                values, classes that are alike. ``steerkit.testing.EstimatorSuite`` holds you to it.
        """
