"""Conformance of estimators: ``EstimatorSuite``.

from steerkit.testing import EstimatorSuite
import my_package.median as plugin

class TestMedian(EstimatorSuite):
    plugin = plugin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from steerkit.api.estimator import ClassStatistics, Estimator
from steerkit.api.hookspecs import EstimatorSpec
from steerkit.errors import DataError, SteerkitError
from steerkit.testing._suite import PluginSuite

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from steerkit.types import Vectors


class EstimatorSuite(PluginSuite[EstimatorSpec]):
    """Inherit it, and set ``plugin``. All data are random rows with a planted direction between the classes.

    Class attributes:
        d_model: width of the rows.
        n_rows: rows of each class.
    """

    _hook: ClassVar[str] = "steerkit_estimators"
    d_model: ClassVar[int] = 24
    n_rows: ClassVar[int] = 256

    def estimator(self) -> Estimator[Any]:
        """The estimator under test."""
        made = self.implementation()(self.options())
        assert isinstance(made, Estimator), "Derive the implementation from steerkit.api.estimator.Estimator."
        return made

    def planted(self) -> Float[Tensor, " d_model"]:
        """The unit vector along which the classes differ."""
        vector = torch.randn(self.d_model, generator=_generator(1), dtype=torch.float64)
        unit: Tensor = vector / vector.norm()
        return unit

    def rows(self) -> dict[str, Float[Tensor, "n d_model"]]:
        """Rows of both classes: noise around means that are 4 apart along ``planted()``."""
        noise = torch.randn(2, self.n_rows, self.d_model, generator=_generator(2), dtype=torch.float64)
        centre = torch.randn(self.d_model, generator=_generator(3), dtype=torch.float64)
        return {"positive": 0.5 * noise[0] + centre + 4 * self.planted(), "negative": 0.5 * noise[1] + centre}

    def classes(self, rows: Mapping[str, Tensor]) -> dict[str, ClassStatistics]:
        """Statistics of rows, and of them only what the spec asks for."""
        kind = self.spec().statistics
        return {
            name: ClassStatistics(
                count=value.shape[0],
                mean=value.mean(0),
                second_moment=value.T @ value / value.shape[0] if kind == "moments" else None,
                rows=value.clone() if kind == "rows" else None,
                tokens_per_prompt=torch.ones(value.shape[0], dtype=torch.long) if kind == "rows" else None,
            )
            for name, value in rows.items()
        }

    def test_gives_vectors_of_the_width(self) -> None:
        """``[rank, d_model]``, floating point, finite, none of them zero."""
        vectors = self.estimator().estimate(self.classes(self.rows()))
        assert vectors.ndim == 2 and vectors.shape[0] >= 1 and vectors.shape[1] == self.d_model, (
            f"Vectors have shape {list(vectors.shape)}, not [rank, {self.d_model}]."
        )
        assert vectors.dtype in (torch.float32, torch.float64), f"Vectors are {vectors.dtype}: keep float32 or float64."
        assert bool(torch.isfinite(vectors).all()), "Vectors hold NaN or infinite values."
        assert bool((vectors.norm(dim=1) > 0).all()), "A vector is zero."

    def test_is_deterministic(self) -> None:
        """The same statistics give the same bits, also from a new estimator."""
        classes = self.classes(self.rows())
        first = self.estimator().estimate(classes)
        torch.rand(3)  # whoever draws from the global generator differs now
        assert torch.equal(first, self.estimator().estimate(classes)), "Two estimates from the same statistics differ."

    def test_order_of_prompts_does_not_matter(self) -> None:
        """Shuffled rows of each class span the same."""
        rows = self.rows()
        order = torch.randperm(self.n_rows, generator=_generator(4))
        shuffled = self.estimator().estimate(self.classes({name: value[order] for name, value in rows.items()}))
        first = self.estimator().estimate(self.classes(rows))
        assert torch.allclose(first.double(), shuffled.double(), rtol=1e-5, atol=1e-6), (
            f"Shuffled rows move the vectors by up to {float((first - shuffled).abs().max()):.1e}."
        )

    def test_finds_a_planted_direction(self) -> None:
        """The span holds the vector along which the classes differ (cosine > 0.99)."""
        vectors = self.estimator().estimate(self.classes(self.rows())).double()
        cosine = _cosine_with_span(self.planted(), vectors)
        assert cosine > 0.99, f"The planted direction has cosine {cosine:.3f} with the estimate, not above 0.99."

    def test_points_to_the_positive_class(self) -> None:
        """The vector that is nearest to the planted one points from the negative to the positive class."""
        vectors = self.estimator().estimate(self.classes(self.rows())).double()
        products = vectors @ self.planted()
        nearest = float(products[products.abs().argmax()])
        assert nearest > 0, "The direction points to the negative class."

    def test_leaves_its_input_alone(self) -> None:
        """Statistics are shared by all estimators of a run."""
        classes, untouched = self.classes(self.rows()), self.classes(self.rows())
        self.estimator().estimate(classes)
        for name, before in untouched.items():
            for part in ("mean", "second_moment", "rows"):
                old, new = getattr(before, part), getattr(classes[name], part)
                assert old is None or torch.equal(old, new), f"The estimator wrote into {name}.{part}."

    def test_result_is_its_own_memory(self) -> None:
        """Whoever scales the result doesn't change the statistics."""
        classes, untouched = self.classes(self.rows()), self.classes(self.rows())
        self.estimator().estimate(classes).mul_(2)
        for name, before in untouched.items():
            assert torch.equal(before.mean, classes[name].mean), f"The vectors share memory with {name}.mean."

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["positive", "negative"])
    def test_refuses_values_that_are_not_finite(self, name: str, value: float) -> None:
        """NaN never becomes a direction."""
        rows = self.rows()
        rows[name][0, 0] = value
        with pytest.raises(DataError):
            self.estimator().estimate(self.classes(rows))

    @pytest.mark.parametrize("name", ["positive", "negative"])
    def test_refuses_an_empty_class(self, name: str) -> None:
        """Of no tokens nothing can be estimated."""
        classes = self.classes(self.rows())
        rows = classes[name].rows
        counts = classes[name].tokens_per_prompt
        empty = replace(
            classes[name],
            count=0,
            rows=None if rows is None else rows[:0],
            tokens_per_prompt=None if counts is None else counts[:0],
        )
        with pytest.raises(DataError):
            self.estimator().estimate({**classes, name: empty})

    def test_equal_classes_give_no_zero_direction(self) -> None:
        """Classes that don't differ give an error, or vectors that something else determines; never zero or NaN."""
        rows = self.rows()["negative"]
        try:
            vectors: Vectors = self.estimator().estimate(self.classes({"positive": rows, "negative": rows}))
        except SteerkitError:
            return
        assert bool(torch.isfinite(vectors).all()) and bool((vectors.norm(dim=1) > 0).all())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cosine_with_span(unit: Tensor, vectors: Tensor) -> float:
    basis = torch.linalg.qr(vectors.T).Q
    return float((basis.T @ unit).norm())
