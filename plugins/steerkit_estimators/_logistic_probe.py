"""A linear probe: L2-regularised logistic regression, as in Alain and Bengio, 2016 (arXiv 1610.01644)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from steerkit.api.estimator import ClassStatistics, Estimate, EstimationRequest, Estimator, Series
from steerkit.errors import DataError
from steerkit_estimators.logistic_probe import LogisticProbeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.types import Site

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Labels: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

_MOST_STEPS = 10_000
_KEYS = 8
_DIGITS = 12


@dataclass(frozen=True, eq=False)
class _Probe:
    """What was found at one site: the direction, the C that was chosen, and its accuracy in cross-validation."""

    vector: Tensor
    regularisation: float
    accuracy: float


class LogisticProbe(Estimator[LogisticProbeOptions]):
    """The vector along which a logistic regression reads the class, in the units of the stream.

    Examples are the rows, each the mean over its tokens. Features are centred and divided by their standard deviation
    *within* the classes, so that what tells the classes apart isn't divided away. C is chosen by the balanced accuracy
    in stratified folds that the seed deals; of equals the smallest, the strongest regularisation, since classes that
    are told apart perfectly leave the accuracy of many alike, and the stronger one follows noise the least. Classes
    weigh the same, however many examples they have.

    The regression's weights, taken back to the raw space, point to the positive class. A regression has no length of
    its own that means anything for steering (it grows with C), so the direction is the unit vector times the distance
    of the class means along it: adding it once moves the mean of the negative class as far as the positive one's, as
    ``mean_difference`` does, and coefficients of the two compare.
    """

    def __init__(self, options: LogisticProbeOptions) -> None:
        super().__init__(options)
        self._found: dict[Site, tuple[Mapping[str, ClassStatistics], int, _Probe]] = {}

    def estimate(self, request: EstimationRequest) -> Estimate:
        """Fit a probe at every site: ``{site: [1, d_model]}``, float64.

        Raises:
            DataError: where a class has fewer than two examples, rows are NaN or infinite, or the classes have one mean
                along the probe.
        """
        import sklearn.linear_model  # noqa: F401  what isn't imported yet can't be limited
        from threadpoolctl import threadpool_limits

        probes: dict[Site, _Probe] = {}
        # Matrices of a hundred rows: threads that wait for each other take many times as long as one alone.
        with threadpool_limits(1):
            for done, site in enumerate(request.sites):
                request.progress(done, len(request.sites))
                probes[site] = self._probe_once(request.statistics[site], site, request.seed)
        request.progress(len(request.sites), len(request.sites))
        places = tuple(str(site) for site in probes)
        return Estimate(
            {site: probe.vector[None] for site, probe in probes.items()},
            diagnostics={
                "cross-validated accuracy": Series(tuple(one.accuracy for one in probes.values()), places, "site"),
                "regularisation C": Series(tuple(one.regularisation for one in probes.values()), places, "site"),
            },
        )

    def _probe_once(self, classes: Mapping[str, ClassStatistics], site: Site, seed: int) -> _Probe:
        """The probe at a site. Where another site has none, all others are asked for again: they are remembered."""
        seen, of, probe = self._found.get(site, (None, seed, None))
        if probe is None or seen is not classes or of != seed:
            probe = self._probe(classes, site, seed)
            self._found[site] = (classes, seed, probe)
        return probe

    def _probe(self, classes: Mapping[str, ClassStatistics], site: Site, seed: int) -> _Probe:
        positive, negative = (_rows(classes, name, site) for name in ("positive", "negative"))
        rows = np.concatenate([positive, negative])
        is_positive = np.concatenate([np.ones(len(positive), bool), np.zeros(len(negative), bool)])
        # One order whatever the prompts' is, so that the folds hold the same examples; a few features tell rows apart.
        order = np.lexsort((*rows.T[:_KEYS], is_positive))
        rows, is_positive = rows[order], is_positive[order]
        spread = np.sqrt((positive.var(0) + negative.var(0)) / 2)
        # What doesn't vary within the classes can't be put to scale, and is left out.
        scale = np.where(spread > 1e-8 * spread.max(initial=0.0), spread, np.inf)
        # A penalty on the length of the weights keeps them in the span of the rows: fitting there is the same, and
        # for few examples in many dimensions much less work.
        left, strengths, axes = np.linalg.svd((rows - rows.mean(0)) / scale, full_matrices=False)
        inside = left * strengths
        regularisation, accuracy = self._choose(inside, is_positive, seed)
        weights = _fitted(inside, is_positive, regularisation).coef_[0] @ axes / scale
        gap = positive.mean(0) - negative.mean(0)
        length = float(np.linalg.norm(weights))
        apart = float(weights @ gap) / length if length > 0 else 0.0
        if not apart > 1e-9 * float(np.linalg.norm(gap)):
            raise DataError(
                f"logistic_probe: at {site} the classes have one mean along the probe, so there is no direction "
                "between them. Check that positive and negative name different prompts, and that the position isn't a "
                "token that is the same in every prompt."
            )
        return _Probe(torch.from_numpy(weights / length * apart), regularisation, accuracy)

    def _choose(self, rows: Array, is_positive: Labels, seed: int) -> tuple[float, float]:
        """The C with the best balanced accuracy in cross-validation, the smallest of equals; and that accuracy."""
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.model_selection import StratifiedKFold

        fewest = min(int(is_positive.sum()), int((~is_positive).sum()))
        folds = StratifiedKFold(min(self.options.folds, fewest), shuffle=True, random_state=seed % 2**32)
        splits = list(folds.split(rows, is_positive))
        accuracies = {}
        for regularisation in sorted(self.options.regularisation):
            scores = []
            for train, test in splits:
                guesses = _fitted(rows[train], is_positive[train], regularisation).predict(rows[test])
                scores.append(balanced_accuracy_score(is_positive[test], guesses))
            accuracies[regularisation] = float(np.mean(scores))
            if round(accuracies[regularisation], _DIGITS) >= 1:
                break  # no weaker penalty is more accurate, and of equals this one is taken
        best = max(accuracies, key=lambda value: (round(accuracies[value], _DIGITS), -value))
        return best, accuracies[best]


def _fitted(rows: Array, is_positive: Labels, regularisation: float) -> Any:
    """A logistic regression with an intercept; its weights, ``coef_[0]``, point to the positive class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=regularisation, class_weight="balanced", tol=1e-8, max_iter=_MOST_STEPS)
    with warnings.catch_warnings():
        # Near the optimum is near enough: the accuracy that is reported is that of these weights.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, is_positive)
    return model


def _rows(classes: Mapping[str, ClassStatistics], name: str, site: Site) -> Array:
    """One vector per example of a class, ``[examples, d_model]``."""
    if name not in classes or classes[name].count < 1:
        raise DataError(f"logistic_probe: the {name} class holds no token. Give it at least two prompts.")
    rows: Array = classes[name].prompt_means().cpu().numpy()
    if len(rows) < 2:
        raise DataError(
            f"logistic_probe: the {name} class has {len(rows)} example, and its accuracy can't be tested on another. "
            "Give it at least two, better twenty."
        )
    if not np.isfinite(rows).all():
        raise DataError(
            f"logistic_probe: the {name} class holds NaN or infinite values at {site}. The model overflowed: load it "
            "with dtype float32 or bfloat16."
        )
    return rows
