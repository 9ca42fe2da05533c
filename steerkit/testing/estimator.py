"""Conformance of estimators: ``EstimatorSuite``.

from steerkit.testing import EstimatorSuite
import my_package.median as plugin

class TestMedian(EstimatorSuite):
    plugin = plugin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from steerkit.api.architecture import Block, Layout, Tap, Writer
from steerkit.api.estimator import NEGATIVE, POSITIVE, ClassStatistics, Estimate, EstimationRequest, Estimator
from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec
from steerkit.engine.reading.requests import estimate_checked
from steerkit.errors import DataError, SteerkitError, counted
from steerkit.testing._suite import PluginSuite
from steerkit.types import Example, Positions, Site, SitePattern, parse_sites, resolve_sites

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from steerkit.session.model import LiveModel
    from steerkit.types import Vectors

Rows = Mapping[Site, Mapping[str, "Float[Tensor, 'n d_model']"]]

N_LAYERS = 3


class EstimatorSuite(PluginSuite[EstimatorSpec]):
    """Inherit it, and set ``plugin``. All data are random rows with a planted direction between the classes.

    An estimator that takes a model handle is given a tiny random model and the examples of ``examples()``; what it
    should find there only its author knows, so the planted direction isn't asked for.

    Class attributes:
        d_model: width of the rows.
        n_rows: rows of each class.
        cosine: what the cosine of the planted vector with the estimate's span must exceed.
    """

    d_model: ClassVar[int] = 24
    n_rows: ClassVar[int] = 256
    cosine: ClassVar[float] = 0.99

    def needs(self) -> EstimatorNeeds:
        """What the spec says that the estimator must see."""
        return self.spec().needs(self.options())

    def estimator(self) -> Estimator[Any]:
        """The estimator under test."""
        made = self.implementation()(self.options())
        assert isinstance(made, Estimator), "Derive the implementation from steerkit.api.estimator.Estimator."
        return made

    def layout(self) -> Layout:
        """The streams of the model that the rows are said to come from."""
        return _live().layout if self.needs().handle else _layout(self.d_model)

    def sites(self) -> tuple[Site, ...]:
        """The estimator's own sites, or two that a user might name."""
        own = self.needs().sites or ("blocks.1.resid_pre", "blocks.2.resid_pre")
        return tuple(resolve_sites(own, self.layout().n_layers))

    def planted(self, site: Site) -> Float[Tensor, " d_model"]:
        """The unit vector along which the classes differ at a site."""
        vector = torch.randn(self.layout().width(site), generator=_generator(1 + site.layer), dtype=torch.float64)
        unit: Tensor = vector / vector.norm()
        return unit

    def rows(self) -> dict[Site, dict[str, Float[Tensor, "n d_model"]]]:
        """Rows of both classes at every site: noise around means that are 4 apart along ``planted()``."""
        return {site: self._rows(site) for site in self.sites()}

    def _rows(self, site: Site) -> dict[str, Tensor]:
        width = self.layout().width(site)
        noise = torch.randn(2, self.n_rows, width, generator=_generator(100 + site.layer), dtype=torch.float64)
        centre = torch.randn(width, generator=_generator(200 + site.layer), dtype=torch.float64)
        return {POSITIVE: 0.5 * noise[0] + centre + 4 * self.planted(site), NEGATIVE: 0.5 * noise[1] + centre}

    def examples(self) -> dict[str, tuple[Example, ...]]:
        """What the rows are said to come from; for an estimator with a handle, what it runs."""
        n = 6 if self.needs().handle else self.n_rows
        return {
            label: tuple(
                replace(Example.of(f"{label} prompt {index}"), completion=" yes", pair=index) for index in range(n)
            )
            for label in (POSITIVE, NEGATIVE)
        }

    def request(self, rows: Rows | None = None) -> EstimationRequest:
        """What the estimator is given: all that its needs name, and nothing else."""
        needs = self.needs()
        given = self.rows() if rows is None else rows
        statistics = {
            site: {name: _statistics(value, needs) for name, value in classes.items()}
            for site, classes in given.items()
        }
        differences = {site: classes[POSITIVE] - classes[NEGATIVE] for site, classes in given.items()}
        return EstimationRequest(
            sites=tuple(given),
            positions=Positions.parse(needs.positions or "-1"),
            layout=self.layout(),
            seed=7,
            examples=self.examples(),
            statistics=statistics if needs.statistics is not None else {},
            differences=differences if needs.statistics == "paired_rows" else {},
            model=_handle(7) if needs.handle else None,
        )

    def estimate(self, request: EstimationRequest | None = None) -> Estimate:
        """A new estimator's estimate, held to the contract."""
        return estimate_checked(self.estimator(), request or self.request(), self.needs())

    def test_needs_fit_together(self) -> None:
        """What it asks for can be given."""
        needs = self.needs()
        assert needs.statistics is not None or needs.handle, "An estimator that sees nothing estimates nothing."
        assert needs.statistics != "paired_rows" or needs.classes == "pairs", "Differences are of classes='pairs'."
        for site in needs.sites or ():
            assert isinstance(parse_sites(site), (Site, SitePattern))
        assert needs.outputs != "labels" or needs.classes == "labels", "One output per class is for classes='labels'."
        bad = [] if needs.outputs == "labels" else [name for name in needs.outputs if not name.isidentifier()]
        assert not bad, f"Outputs that can't be written in a recipe: {bad}."

    def test_gives_vectors_of_the_width(self) -> None:
        """``[rank, d_model]`` at sites of the request, floating point, finite, none of them zero."""
        request = self.request()
        for site, vectors in _all_vectors(self.estimator().estimate(request)):
            assert site in request.sites, f"Vectors at {site}, which the request doesn't name."
            width = request.layout.width(site)
            assert vectors.ndim == 2 and vectors.shape[0] >= 1 and vectors.shape[1] == width, (
                f"Vectors have shape {list(vectors.shape)}, not [rank, {width}]."
            )
            assert self.needs().rank in (None, vectors.shape[0]) or site not in self.estimate().vectors, (
                f"The estimate has {counted(vectors.shape[0], 'vector')} at {site}; the needs say {self.needs().rank}."
            )
            assert vectors.dtype in (torch.float32, torch.float64), f"Vectors are {vectors.dtype}: keep float32 or 64."
            assert bool(torch.isfinite(vectors).all()), "Vectors hold NaN or infinite values."
            assert bool((vectors.norm(dim=1) > 0).all()), "A vector is zero."

    def test_gives_the_outputs_that_its_needs_name(self) -> None:
        """A recipe is checked by the needs, and directions are named by the estimate."""
        names = set(self.examples()) if self.needs().outputs == "labels" else set(self.needs().outputs)
        assert set(self.estimator().estimate(self.request()).extra) == names

    def test_diagnostics_can_be_written(self) -> None:
        """Numbers and series of numbers, by names."""
        import json

        json.dumps(self.estimate().diagnostics_as_json(), allow_nan=False)

    def test_is_deterministic(self) -> None:
        """The same request gives the same bits, also from a new estimator; so do the diagnostics."""
        first = self.estimate()
        torch.rand(3)  # whoever draws from the global generator differs now
        second = self.estimate()
        for (_, one), (_, other) in zip(_all_vectors(first), _all_vectors(second), strict=True):
            assert torch.equal(one, other), "Two estimates from the same request differ."
        assert first.diagnostics_as_json() == second.diagnostics_as_json(), "Diagnostics of the same request differ."

    def test_order_of_prompts_does_not_matter(self) -> None:
        """Shuffled rows of the classes span the same; of pairs both sides are shuffled alike."""
        self._needs_rows()
        order = torch.randperm(self.n_rows, generator=_generator(4))
        rows = self.rows()
        mixed = {site: {name: value[order] for name, value in classes.items()} for site, classes in rows.items()}
        shuffled = self.estimate(self.request(mixed))
        for (_, one), (_, other) in zip(_all_vectors(self.estimate()), _all_vectors(shuffled), strict=True):
            assert torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6), (
                f"Shuffled rows move the vectors by up to {float((one - other).abs().max()):.1e}."
            )

    def test_finds_a_planted_direction(self) -> None:
        """The span holds the vector along which the classes differ."""
        self._needs_rows()
        for site, vectors in _all_vectors(self.estimate()):
            cosine = _cosine_with_span(self.planted(site), vectors.double())
            assert cosine > self.cosine, (
                f"The planted direction has cosine {cosine:.3f} with the estimate at {site}, not above {self.cosine}."
            )

    def test_points_to_the_positive_class(self) -> None:
        """The vector that is nearest to the planted one points from the negative to the positive class."""
        self._needs_rows()
        for site, vectors in self.estimate().vectors.items():
            products = vectors.double() @ self.planted(site)
            nearest = float(products[products.abs().argmax()])
            assert nearest > 0, f"The direction at {site} points to the negative class."

    def test_leaves_its_input_alone(self) -> None:
        """Statistics are shared by all estimators of a run."""
        request, untouched = self.request(), self.request()
        self.estimator().estimate(request)
        for name, before, after in _parts(untouched, request):
            assert torch.equal(before, after), f"The estimator wrote into {name}."

    def test_result_is_its_own_memory(self) -> None:
        """Whoever scales the result doesn't change the statistics."""
        request, untouched = self.request(), self.request()
        for _, vectors in _all_vectors(self.estimator().estimate(request)):
            vectors.detach().mul_(2)
        for name, before, after in _parts(untouched, request):
            assert torch.equal(before, after), f"The vectors share memory with {name}."

    def test_leaves_the_model_alone(self) -> None:
        """An estimator with a handle leaves every parameter, every gradient and every hook as they were."""
        if not self.needs().handle:
            return
        model = _live().model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        self.estimate()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters()), "A parameter has got a gradient."

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", [POSITIVE, NEGATIVE])
    def test_refuses_values_that_are_not_finite(self, name: str, value: float) -> None:
        """NaN never becomes a direction."""
        self._needs_rows()
        rows = self.rows()
        for classes in rows.values():
            classes[name][0, 0] = value
        with pytest.raises(DataError):
            self.estimator().estimate(self.request(rows))

    @pytest.mark.parametrize("name", [POSITIVE, NEGATIVE])
    def test_refuses_an_empty_class(self, name: str) -> None:
        """Of no tokens nothing can be estimated."""
        self._needs_rows()
        request = self.request()
        emptied = {site: {**classes, name: _emptied(classes[name])} for site, classes in request.statistics.items()}
        differences = {site: value[:0] for site, value in request.differences.items()}
        empty = replace(request, statistics=emptied, differences=differences, examples={**request.examples, name: ()})
        with pytest.raises(DataError):
            self.estimator().estimate(empty)

    def test_equal_classes_give_no_zero_direction(self) -> None:
        """Classes that don't differ give an error, or vectors that something else determines; never zero or NaN."""
        self._needs_rows()
        rows = {
            site: {POSITIVE: classes[NEGATIVE], NEGATIVE: classes[NEGATIVE]} for site, classes in self.rows().items()
        }
        try:
            estimate = self.estimate(self.request(rows))
        except SteerkitError:
            return
        for _, vectors in _all_vectors(estimate):
            assert bool(torch.isfinite(vectors).all()) and bool((vectors.norm(dim=1) > 0).all())

    def _needs_rows(self) -> None:
        if self.needs().handle:
            pytest.skip("What an estimator with a model handle should find, only its author knows.")


def _statistics(rows: Tensor, needs: EstimatorNeeds) -> ClassStatistics:
    kept = needs.statistics in ("rows", "paired_rows")
    return ClassStatistics(
        count=rows.shape[0],
        mean=rows.mean(0),
        second_moment=rows.T @ rows / rows.shape[0] if needs.statistics == "moments" else None,
        rows=rows.clone() if kept else None,
        tokens_per_prompt=torch.ones(rows.shape[0], dtype=torch.long) if kept else None,
    )


def _emptied(statistics: ClassStatistics) -> ClassStatistics:
    rows, counts = statistics.rows, statistics.tokens_per_prompt
    return replace(
        statistics,
        count=0,
        rows=None if rows is None else rows[:0],
        tokens_per_prompt=None if counts is None else counts[:0],
    )


def _all_vectors(estimate: Estimate) -> list[tuple[Site, Vectors]]:
    """Every direction's vectors, the main one's first."""
    return [item for one in (estimate.vectors, *estimate.extra.values()) for item in one.items()]


def _parts(one: EstimationRequest, other: EstimationRequest) -> list[tuple[str, Tensor, Tensor]]:
    """The tensors of two requests side by side, by name."""
    pairs = []
    for site, classes in one.statistics.items():
        for label, statistics in classes.items():
            for part in ("mean", "second_moment", "rows"):
                before, after = getattr(statistics, part), getattr(other.statistics[site][label], part)
                if before is not None:
                    pairs.append((f"{label}.{part} at {site}", before, after))
    return [
        *pairs,
        *((f"differences at {site}", one.differences[site], other.differences[site]) for site in one.differences),
    ]


def _layout(d_model: int) -> Layout:
    """Streams of a model that nobody runs."""
    block = Block("blocks.0", (Writer("attn_out", Tap("attn")), Writer("mlp_out", Tap("mlp"))), resid_mid=Tap("norm"))
    return Layout(d_model, "model", Tap("embed"), (block,) * N_LAYERS, "final_norm", "head")


@cache
def _live() -> LiveModel:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    return wrap(tiny_model("llama"), tiny_tokenizer())


def _handle(seed: int) -> Any:
    from steerkit.engine.reading.handle import Handle

    return Handle(_live(), seed)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cosine_with_span(unit: Tensor, vectors: Tensor) -> float:
    basis = torch.linalg.qr(vectors.T).Q
    return float((basis.T @ unit).norm())
