"""How well a direction separates two classes at each layer, on prompts that it wasn't estimated from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit.api.estimator import ClassStatistics, Estimator
from steerkit.api.hookspecs import StatisticsKind
from steerkit.engine.reading.capture import capture
from steerkit.errors import DataError
from steerkit.types import RESID_POST, RESID_PRE, Example, Positions, Site

if TYPE_CHECKING:
    from steerkit.api.architecture import Layout
    from steerkit.engine.runtime.runtime import Runtime
    from steerkit.progress import Progress


@dataclass(frozen=True)
class Separation:
    """Separation at one layer.

    Args:
        site: where activations were read.
        layer: the block; the number of layers for the stream behind the last block.
        norm: length of the direction estimated there, or None.
        auroc: chance that a positive prompt projects higher than a negative one, ties counted half; None
            where no direction could be estimated.
        d_prime: difference of the classes' mean projections over their root mean variance; None where a
            class has fewer than two prompts or no variance.
        n_positive: number of positive prompts.
        n_negative: number of negative prompts.
    """

    site: str
    layer: int
    norm: float | None
    auroc: float | None
    d_prime: float | None
    n_positive: int
    n_negative: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def layer_sites(layout: Layout) -> tuple[Site, ...]:
    """The stream before every block and behind the last one."""
    return (*layout.sites_of(RESID_PRE), Site(RESID_POST, layout.n_layers - 1))


def separation(
    live: Runtime,
    estimator: Estimator,
    kind: StatisticsKind,
    train: Mapping[str, Sequence[Example]],
    held_out: Mapping[str, Sequence[Example]],
    positions: Positions,
    progress: Progress | bool = True,
) -> list[Separation]:
    """Estimate a direction at every layer from ``train`` and project ``held_out`` on it.

    Args:
        live: the model.
        estimator: the direction's estimator.
        kind: the statistics that it asks for.
        train: examples of classes ``positive`` and ``negative``.
        held_out: other examples of the same classes (or the same ones, which the report then says).
        positions: at which tokens; a prompt with several projects as their mean.
        progress: told how many prompts of a class are done.
    """
    sites = layer_sites(live.layout)

    def read(prompts: Sequence[Example], what: StatisticsKind) -> dict[Site, ClassStatistics]:
        found = capture(live, prompts, sites, [positions], kind=what, progress=progress)
        return {site: statistics for (site, _), statistics in found.items()}

    fitted = {label: read(prompts, kind) for label, prompts in train.items()}
    seen = {label: read(prompts, "rows") for label, prompts in held_out.items()}
    found = []
    for layer, site in enumerate(sites):
        classes = {label: by_site[site] for label, by_site in fitted.items()}
        found.append(_at_site(site, layer, estimator, classes, {label: seen[label][site] for label in seen}))
    return found


def _at_site(
    site: Site,
    layer: int,
    estimator: Estimator,
    fitted: Mapping[str, ClassStatistics],
    seen: Mapping[str, ClassStatistics],
) -> Separation:
    positive, negative = seen["positive"].prompt_means(), seen["negative"].prompt_means()
    counts = (positive.shape[0], negative.shape[0])
    try:
        vector = estimator.estimate(fitted)[0].double()
    except DataError:
        # Before the first block the last template token is one and the same for every prompt: no direction.
        return Separation(str(site), layer, None, None, None, *counts)
    norm = float(vector.norm())
    high, low = (positive @ vector / norm, negative @ vector / norm)
    return Separation(str(site), layer, norm, auroc(high, low), d_prime(high, low), *counts)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve of two samples, ``[n]`` and ``[m]``."""
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return float(roc_auc_score(labels.numpy(), torch.cat([positive, negative]).numpy()))


def d_prime(positive: Tensor, negative: Tensor) -> float | None:
    """Sensitivity index: difference of means over the root of the mean of the two variances."""
    if len(positive) < 2 or len(negative) < 2:
        return None
    pooled = math.sqrt(float(positive.var() + negative.var()) / 2)
    return float(positive.mean() - negative.mean()) / pooled if pooled > 0 else None
