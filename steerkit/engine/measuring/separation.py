"""How well a direction separates two classes at each layer, on prompts that it wasn't estimated from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.api.estimator import NEGATIVE, POSITIVE, ClassStatistics, EstimationRequest, Estimator
from steerkit.api.evaluator import only_rounding
from steerkit.api.hookspecs import EstimatorNeeds
from steerkit.engine.reading.requests import Classes, estimate_checked, read_classes, read_requests, with_statistics
from steerkit.errors import DataError
from steerkit.progress import shown
from steerkit.types import RESID_POST, RESID_PRE, Positions, Site

if TYPE_CHECKING:
    from steerkit.api.architecture import Layout
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.progress import Progress

_NO_SPREAD: Final = 2.0**-23
"""Of the largest projection: classes that vary by less vary by what float32 rounds."""
_ONE_TOKEN: Final = (
    "the token read there is the same in every prompt, as those of a chat template are, and nothing has read the "
    "prompts before the first block. That is so by design, and no mistake of the recipe."
)


@dataclass(frozen=True)
class Separation:
    """Separation at one layer.

    Args:
        site: where activations were read.
        layer: the block; the number of layers for the stream behind the last block.
        norm: length of the direction estimated there (of all its vectors together), or None.
        auroc: chance that a positive prompt projects higher than a negative one, ties counted half; None
            where no direction could be estimated.
        d_prime: difference of the classes' mean projections over their root mean variance; None where a
            class has fewer than two prompts or no variance.
        n_positive: number of positive prompts.
        n_negative: number of negative prompts.
        rank: number of vectors of the direction; 0 where none could be estimated.
        reason: why there is no AUROC; empty where there is one.
        only_rounding: True where the projections differ by no more than float32 rounds; else None.
    """

    site: str
    layer: int
    norm: float | None
    auroc: float | None
    d_prime: float | None
    n_positive: int
    n_negative: int
    rank: int = 1
    reason: str = ""
    only_rounding: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def separation_sites(layout: Layout) -> tuple[Site, ...]:
    """The stream before every block and behind the last one."""
    return (*layout.sites_of(RESID_PRE), Site(RESID_POST, layout.n_layers - 1))


def separation(
    live: Runtime,
    estimator: Estimator,
    needs: EstimatorNeeds,
    train: Classes,
    held_out: Classes,
    positions: Positions,
    *,
    seed: int = 0,
    progress: Progress | bool = True,
) -> list[Separation]:
    """Estimate a direction at every layer from ``train`` and project ``held_out`` on it.

    A direction of several vectors is looked at as a whole: held-out prompts are projected on that vector of its span
    which tells the training classes apart best, by Fisher's linear discriminant.

    Args:
        live: the model.
        estimator: the direction's estimator.
        needs: what it says that it must see.
        train: examples of classes ``positive`` and ``negative``.
        held_out: other examples of the same classes (or the same ones, which the report then says).
        positions: at which tokens, unless the estimator says; a prompt with several projects as their mean.
        seed: what the estimator draws from.
        progress: told how many prompts of a class are done, then how many layers.
    """
    sites = separation_sites(live.layout)
    if needs.sites is not None or needs.statistics is None:
        reason = "its estimator doesn't work from what is captured at one site after the other."
        counts = len(held_out[POSITIVE]), len(held_out[NEGATIVE])
        return [Separation(str(site), layer, None, None, None, *counts, 0, reason) for layer, site in enumerate(sites)]
    ((asked, _),) = read_requests(live, replace(needs, statistics=None), train, sites, positions, seed=seed)
    fitted = read_classes(live, asked, "rows", progress)
    seen = read_classes(
        live, replace(asked, examples={label: tuple(given) for label, given in held_out.items()}), "rows", progress
    )
    separations = []
    with shown(progress, "estimating") as tell:
        for layer, site in enumerate(sites):
            tell(layer, len(sites))
            separations.append(_separation_estimated(estimator, asked, needs, site, layer, fitted[site], seen[site]))
        tell(len(sites), len(sites))
    return separations


def _separation_estimated(
    estimator: Estimator,
    asked: EstimationRequest,
    needs: EstimatorNeeds,
    site: Site,
    layer: int,
    fitted: Mapping[str, ClassStatistics],
    seen: Mapping[str, ClassStatistics],
) -> Separation:
    try:
        request = with_statistics(asked, needs, {site: fitted})
        vectors = estimate_checked(estimator, request, needs).vectors[site]
    except DataError as error:
        counts = (seen[POSITIVE].prompt_means().shape[0], seen[NEGATIVE].prompt_means().shape[0])
        reason = _ONE_TOKEN if layer == 0 and _one_token(fitted) else str(error)
        return Separation(str(site), layer, None, None, None, *counts, 0, reason)
    found = _separation_at_site(site, layer, vectors.detach().cpu().double(), fitted, seen)
    # Some estimators refuse where the classes are alike, others give zero.
    return replace(found, reason=_ONE_TOKEN) if found.norm == 0 and layer == 0 and _one_token(fitted) else found


def _one_token(fitted: Mapping[str, ClassStatistics]) -> bool:
    """Whether every prompt of both classes has the same vector."""
    every = torch.cat([fitted[POSITIVE].prompt_means(), fitted[NEGATIVE].prompt_means()])
    return bool((every == every[0]).all())


def _separation_at_site(
    site: Site,
    layer: int,
    vectors: Tensor,
    fitted: Mapping[str, ClassStatistics],
    seen: Mapping[str, ClassStatistics],
) -> Separation:
    positive, negative = seen[POSITIVE].prompt_means(), seen[NEGATIVE].prompt_means()
    counts = (positive.shape[0], negative.shape[0])
    rank, norm = vectors.shape[0], float(vectors.norm())
    if norm == 0:
        return Separation(str(site), layer, norm, None, None, *counts, rank, "the estimate is zero there.")
    if rank == 1:
        unit = vectors[0] / norm
    else:
        best = discriminant(vectors, fitted[POSITIVE].prompt_means(), fitted[NEGATIVE].prompt_means())
        if best is None:
            reason = "the training classes have one mean within the direction's span."
            return Separation(str(site), layer, norm, None, None, *counts, rank, reason)
        unit = best
    high, low = positive @ unit, negative @ unit
    projections, size = torch.cat([high, low]).tolist(), float(torch.cat([positive, negative]).norm(dim=1).max())
    noise = only_rounding(projections, size) or None
    return Separation(str(site), layer, norm, auroc(high, low), d_prime(high, low), *counts, rank, only_rounding=noise)


def discriminant(vectors: Tensor, positive: Tensor, negative: Tensor) -> Tensor | None:
    """The unit vector in the span of ``vectors`` that tells two samples apart best, pointing to the positive one.

    Fisher's linear discriminant, ``S⁻¹ (mean⁺ − mean⁻)`` within the span, where ``S`` is the mean of the two classes'
    covariances, with a millionth of its mean eigenvalue added, so that few examples don't make it singular.

    Args:
        vectors: ``[rank, d_model]``, float64.
        positive: ``[n, d_model]``, float64.
        negative: ``[m, d_model]``, float64.

    Returns:
        ``[d_model]``, or None where the means don't differ within the span.
    """
    _, strengths, rows = torch.linalg.svd(vectors, full_matrices=False)
    basis = rows[strengths > strengths[0] * 1e-10]
    high, low = positive @ basis.T, negative @ basis.T
    gap = high.mean(0) - low.mean(0)
    if not bool(gap.any()):
        return None
    within = sum((x - x.mean(0)).T @ (x - x.mean(0)) / max(len(x) - 1, 1) for x in (high, low)) / 2
    assert isinstance(within, Tensor)
    size = float(within.diagonal().mean())
    if size > 0:
        gap = torch.linalg.solve(within + 1e-6 * size * torch.eye(len(basis), dtype=within.dtype), gap)
    best = gap @ basis
    unit: Tensor = best / best.norm()
    return unit


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve of two samples, ``[n]`` and ``[m]``."""
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return float(roc_auc_score(labels.numpy(), torch.cat([positive, negative]).numpy()))


def d_prime(positive: Tensor, negative: Tensor) -> float | None:
    """Sensitivity index: difference of means over the root of the mean of the two variances.

    Returns:
        None where a class has fewer than two values, and where they vary by no more than rounding: of prompts that are
        one and the same token at a site before the first block the variance is 0, or what rounding leaves of it.
    """
    if len(positive) < 2 or len(negative) < 2:
        return None
    pooled = math.sqrt(float(positive.var() + negative.var()) / 2)
    size = float(torch.cat([positive, negative]).abs().max())
    return float(positive.mean() - negative.mean()) / pooled if pooled > _NO_SPREAD * size else None
