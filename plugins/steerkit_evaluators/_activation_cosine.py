"""How like another class's activations those of prompts have become: Siu et al., 2025 (COSMIC, arXiv 2506.00085)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import required, scores
from steerkit_evaluators.activation_cosine import ActivationCosineOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from steerkit.types import Positions, Site

_NAME = "activation_cosine"


class ActivationCosine(Evaluator[ActivationCosineOptions]):
    """The cosine of two means, in float64: of the data's activations, and of the unsteered ones of ``like``.

    The layers that count are the ``int(share · layers)``, at least one, on which the unsteered means of ``classes``
    have the lowest cosine; on them an example is one vector. By default these are block outputs at the last token, and
    the vector is their mean over the layers, as the authors' code has it, whose ``classes`` are training prompts.

    With ``x_i`` the vector of example i, ``m`` their mean and ``r`` that of ``like``, an example scores
    ``x_i·r / (‖m‖ ‖r‖)``: what it contributes, so that the mean of the scores is the cosine of the means, and their
    spread that of the contributions.
    """

    unit: ClassVar[str] = "cosine"

    def score(self, outputs: Outputs) -> Sequence[Score]:
        """One score per prompt; needs ``activations`` of all prompts at once, and ``references``.

        NaN where a prompt has none of the tokens, for a mean without any length, and where activations hold NaN.
        """
        own = _by_layer(outputs)
        held = required(outputs.references, _NAME, "other examples' activations")
        referred = {name: _by_layer(held[name]) for name in {self.options.like, *self.options.classes}}
        layers = self.layers(*(referred[name] for name in self.options.classes))
        mine, other = self._combined(own, layers), self._combined(referred[self.options.like], layers).nanmean(0)
        known = ~mine.isnan().all(-1)
        length = mine[known].mean(0).norm() * other.norm()
        if not known.any() or not float(length) > 0:
            return [Score(math.nan)] * len(outputs.texts)
        return scores(mine @ other / length)

    def layers(self, one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> tuple[int, ...]:
        """The layers on which the means of two classes are least alike, the least alike first."""
        cosines = {
            layer: float(torch.cosine_similarity(rows.nanmean(0), other[layer].nanmean(0), dim=0, eps=0.0))
            for layer, rows in one.items()
        }
        number = max(1, int(self.options.share * len(cosines)))
        # What has no cosine, since a mean is 0, comes last.
        return tuple(sorted(cosines, key=lambda layer: (math.isnan(cosines[layer]), cosines[layer], layer))[:number])

    def _combined(self, by_layer: Mapping[int, Tensor], layers: Sequence[int]) -> Float[Tensor, "n size"]:
        """Of each example one vector."""
        rows = torch.stack([by_layer[layer] for layer in sorted(layers)], 1)
        return rows.mean(1) if self.options.combine == "mean" else rows.flatten(1)


def _by_layer(outputs: Outputs) -> dict[int, Tensor]:
    """``{layer: [n, d_model]}`` in float64, the mean over the tokens of each example; NaN where it has none."""
    held: Mapping[tuple[Site, Positions], Sequence[Tensor]] = required(outputs.activations, _NAME, "activations")
    return {site.layer: torch.stack([one.double().mean(0) for one in rows]) for (site, _), rows in held.items()}
