"""Singular vectors of class differences: how many directions it takes to hold what tells two classes apart.

Whether more than one direction carries a behaviour is the question of Wollschläger et al., 2025 (arXiv 2502.17420).
Here the differences of many positions or categories answer it by their own geometry: a singular value decomposition
without centring, since what all differences have in common is what is looked for first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from steerkit.api.estimator import NEGATIVE, POSITIVE, ClassStatistics, Estimate, EstimationRequest, Estimator, Series
from steerkit.errors import DataError, agreeing, counted
from steerkit_estimators.difference_subspace import POSITIONS, DifferenceSubspaceOptions, category_of

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Example, Site, Vectors

# Singular values below this share of the largest one are what float32 activations round.
_NOTHING = 1e-5


class DifferenceSubspace(Estimator[DifferenceSubspaceOptions]):
    """Orthogonal vectors that make up the differences between two classes, the largest part of them first.

    With differences ``D`` ``[n, d_model]``, one for each position or category, and ``D = U S Vᵀ``, vector ``k`` is
    ``S_k / √n · V_k``: as long as the differences are along it, in the root of their mean square, and turned to the
    positive class. One difference gives ``mean_difference``. The first ``k`` vectors span the ``k`` dimensions from
    which the differences lie the least far away (Eckart and Young, 1936), so that removing 1, 2, 4, … of them tells a
    behaviour that one direction carries from one that is spread out.

    Over categories the difference is that of the means of the examples' mean tokens. Where the reference class has
    examples of every category, each is taken from its own; else all are taken from the whole reference class.
    Categories weigh the same, however many examples they have.
    """

    def estimate(self, request: EstimationRequest) -> Estimate:
        """Decompose the differences at every site: ``{site: [rank, d_model]}``, float64.

        Raises:
            DataError: where a class is empty, rows are NaN or infinite, positions are more tokens in one example than
                in another, an example has no category, or the differences span fewer directions than are wanted.
        """
        vectors: dict[Site, Vectors] = {}
        shares: list[tuple[float, ...]] = []
        for site in request.sites:
            differences = self._differences(request, site)
            vectors[site], share = self._leading(differences, site)
            shares.append(share)
        return Estimate(vectors, diagnostics={"share of the differences' squares": self._told(request.sites, shares)})

    def _told(self, sites: Sequence[Site], shares: Sequence[tuple[float, ...]]) -> Series:
        """At one site the share of each vector, at several that of all of them by site."""
        if len(sites) == 1:
            return Series(shares[0], tuple(range(1, len(shares[0]) + 1)), "vector")
        return Series(tuple(sum(one) for one in shares), tuple(map(str, sites)), "site")

    def _differences(self, request: EstimationRequest, site: Site) -> Tensor:
        """``[n, d_model]``, float64, in an order that doesn't depend on that of the examples."""
        classes = request.statistics[site]
        for name in (POSITIVE, NEGATIVE):
            _check(classes, name, site)
        if self.options.over == POSITIONS:
            return _by_position(classes[POSITIVE]) - _by_position(classes[NEGATIVE])
        field = self.options.over
        means = {name: _by_category(classes[name], request.examples[name], field) for name in (POSITIVE, NEGATIVE)}
        positive, negative = means[POSITIVE], means[NEGATIVE]
        if None in positive:
            raise DataError(
                f"difference_subspace: a positive example has no field {field!r}. Choose another `over`, or leave "
                "these examples out with `where`."
            )
        own = set(positive) <= set(negative)
        whole = classes[NEGATIVE].prompt_means().mean(0)
        kinds = sorted(kind for kind in positive if kind is not None)
        return torch.stack([positive[kind] - (negative[kind] if own else whole) for kind in kinds])

    def _leading(self, differences: Tensor, site: Site) -> tuple[Vectors, tuple[float, ...]]:
        """The vectors, ``[rank, d_model]``, and the share of the squares that each makes up."""
        n, rank = differences.shape[0], self.options.rank
        _, sizes, axes = torch.linalg.svd(differences, full_matrices=False)
        found = int((sizes > _NOTHING * sizes[0]).sum()) if float(sizes[0]) > 0 else 0
        if not found:
            raise DataError(
                f"difference_subspace: the two classes have exactly the same means at {site}, so there is no direction "
                "between them. Check that positive and negative name different prompts, and that the position isn't a "
                "token that is the same in every prompt at a site that hasn't read the others yet."
            )
        if found < rank:
            raise DataError(
                f"difference_subspace: {counted(n, 'difference')} over {self.options.over} "
                f"{agreeing(n, 'spans', 'span')} {counted(found, 'direction')} at {site}, and "
                f"{rank} are wanted. Write rank: {found} at most, or take differences over something that there is "
                "more of."
            )
        mean = differences.mean(0)
        kept = axes[:rank] * _signs(axes[:rank], mean)[:, None] * sizes[:rank, None] / n**0.5
        squares = sizes.square()
        return kept.contiguous(), tuple((squares[:rank] / squares.sum()).tolist())


def _signs(axes: Tensor, mean: Tensor) -> Tensor:
    """+1 or −1 for each axis, so that it points to where the mean difference goes.

    One that the mean says nothing of is turned by its largest component, so that equal requests give equal bits.
    """
    along = axes @ mean
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
    chosen = torch.where(along.abs() > _NOTHING * mean.norm(), along, largest)
    return torch.where(chosen < 0, -1.0, 1.0).to(axes.dtype)


def _by_position(statistics: ClassStatistics) -> Tensor:
    """The mean at each of the positions, ``[positions, d_model]``."""
    assert statistics.rows is not None and statistics.tokens_per_prompt is not None
    counts = {int(count) for count in statistics.tokens_per_prompt.tolist()}
    if len(counts) > 1 or not counts or 0 in counts:
        low, high = min(counts, default=0), max(counts, default=0)
        raise DataError(
            f"difference_subspace: the positions are {low} to {counted(high, 'token')} of a prompt, so they aren't "
            f"the same ones "
            "in every prompt. Name as many in each: a role of the template such as post_instruction, or indices such "
            "as [-5:]."
        )
    means: Tensor = statistics.rows.double().unflatten(0, (-1, counts.pop())).mean(0)
    return means


def _by_category(statistics: ClassStatistics, examples: Sequence[Example], field: str) -> dict[str | None, Tensor]:
    """The mean of each category's examples, ``{category: [d_model]}``; those without one under None."""
    assert statistics.tokens_per_prompt is not None
    read = [place for place, count in enumerate(statistics.tokens_per_prompt.tolist()) if count]
    if len(statistics.tokens_per_prompt) != len(examples):
        raise DataError(
            f"difference_subspace: {counted(len(examples), 'example')}, and activations of another number of them."
        )
    rows: dict[str | None, list[int]] = {}
    for row, place in enumerate(read):
        rows.setdefault(category_of(examples[place], field), []).append(row)
    means = statistics.prompt_means()
    return {kind: means[chosen].mean(0) for kind, chosen in rows.items()}


def _check(classes: Mapping[str, ClassStatistics], name: str, site: Site) -> None:
    if name not in classes or classes[name].count < 1:
        raise DataError(f"difference_subspace: the {name} class holds no token. Give it at least one prompt.")
    rows = classes[name].rows
    if rows is None or not bool(torch.isfinite(rows).all()):
        raise DataError(
            f"difference_subspace: the {name} class holds NaN or infinite values at {site}. The model overflowed: load "
            "it with dtype float32 or bfloat16."
        )
