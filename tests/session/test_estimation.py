"""Estimators of strangers through the public functions: odd options, pairs, labels, further directions, diagnostics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from numpy import array
from pydantic import Field

from steerkit.api.estimator import Estimate, EstimationRequest, Estimator, Series
from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, NoOptions, Options, hookimpl
from steerkit.catalog import Catalog
from steerkit.errors import DataError, ModelError, PluginError, SiteError, SteerkitError
from steerkit.session import estimate_direction, estimate_directions
from steerkit.session.model import LiveModel
from steerkit.types import Example, Positions, Site

WARM = ["the sun is out", "a warm day", "sun and sand", "summer heat is here"]
COLD = ["ice on the lake", "a cold night", "snow and wind again", "winter frost"]
SEEN: list[EstimationRequest] = []


class OddOptions(Options):
    positions: float = Field(default=1.0, description="A factor.")
    name: str = Field(default="x", description="A word.")
    site: int = Field(default=0, description="A number.")
    options: int = Field(default=0, description="A number.")
    seed: int = Field(default=0, description="A number.")


class Odd(Estimator[OddOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        SEEN.append(request)
        factor = self.options.positions * len(self.options.name) + self.options.site + self.options.options
        found = request.statistics.items()
        return Estimate({site: factor * (one["positive"].mean - one["negative"].mean)[None] for site, one in found})


class Paired(Estimator[NoOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        SEEN.append(request)
        (site,) = request.sites
        _, _, rows = torch.linalg.svd(request.differences[site], full_matrices=False)
        return Estimate({site: rows[:1]}, diagnostics={"pairs": float(len(request.differences[site]))})


class Labelled(Estimator[NoOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        (site,) = request.sites
        means = {label: statistics.mean for label, statistics in request.statistics[site].items()}
        centre = torch.stack(list(means.values())).mean(0)
        extra = {label: {site: (mean - centre)[None]} for label, mean in means.items()}
        series = Series(tuple(float((mean - centre).norm()) for mean in means.values()), tuple(means), "label")
        vectors = torch.stack([mean - centre for mean in means.values()][:-1])
        return Estimate({site: vectors}, extra=extra, diagnostics={"distance": series, "nothing": float("nan")})


class Wrong(Estimator[NoOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        return Estimate({Site("resid_post", 0): torch.ones(1, request.layout.d_model)})


class Narrow(Estimator[NoOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        return Estimate({site: torch.ones(1, 3) for site in request.sites})


class Silent(Estimator[NoOptions]):
    def estimate(self, request: EstimationRequest) -> Estimate:
        return Estimate({site: torch.full((1, request.layout.d_model), float("nan")) for site in request.sites})


SPECS = [
    EstimatorSpec("odd", "Odd.", "odd_estimators:Odd", OddOptions),
    EstimatorSpec(
        "paired",
        "Paired.",
        "odd_estimators:Paired",
        needs=lambda options: EstimatorNeeds(classes="pairs", statistics="paired_rows"),
    ),
    EstimatorSpec(
        "labelled",
        "Labelled.",
        "odd_estimators:Labelled",
        needs=lambda options: EstimatorNeeds(classes="labels", outputs="labels"),
    ),
    EstimatorSpec("wrong", "Wrong.", "odd_estimators:Wrong"),
    EstimatorSpec("narrow", "Narrow.", "odd_estimators:Narrow"),
    EstimatorSpec("silent", "Silent.", "odd_estimators:Silent"),
    EstimatorSpec(
        "own",
        "Own sites.",
        "odd_estimators:Odd",
        OddOptions,
        needs=lambda options: EstimatorNeeds(sites=("blocks.1-1.resid_post",), positions="instruction"),
    ),
    EstimatorSpec("asking", "Asking.", "odd_estimators:Odd", OddOptions, needs=lambda _: EstimatorNeeds(handle=True)),
    EstimatorSpec("failing", "Failing.", "odd_estimators:Odd", OddOptions, needs=lambda options: 1 / 0),  # type: ignore
]


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    homes = ModuleType("odd_estimators")
    for kind in (Odd, Paired, Labelled, Wrong, Narrow, Silent):
        setattr(homes, kind.__name__, kind)
    sys.modules["odd_estimators"] = homes
    plugin = ModuleType("odd_plugin")
    plugin.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]

    @hookimpl
    def steerkit_estimators() -> list[EstimatorSpec]:
        return SPECS

    plugin.steerkit_estimators = steerkit_estimators  # type: ignore[attr-defined]
    SEEN.clear()
    yield Catalog.from_modules(plugin)
    del sys.modules["odd_estimators"]


SITE = "blocks.1.resid_pre"


def test_options_may_be_called_like_keywords_of_ours(llama: LiveModel, catalog: Catalog) -> None:
    odd = {"positions": 2.0, "name": "four", "site": 1, "options": 3, "seed": 9}
    found = estimate_direction(
        llama, WARM, COLD, site=SITE, estimator="odd", name="d", seed=5, options=odd, catalog=catalog, progress=False
    )
    plain = estimate_direction(llama, WARM, COLD, site=SITE, progress=False)
    assert torch.allclose(found.vectors, 12 * plain.vectors, rtol=1e-5)
    assert (found.name, found.site, found.positions) == ("d", Site.parse(SITE), Positions.parse("-1"))
    assert found.provenance["options"] == odd
    (request,) = SEEN
    assert (request.seed, request.layout, request.model) == (5, llama.layout, None)
    with pytest.raises(SteerkitError, match="option 'flavour'"):
        estimate_direction(llama, WARM, COLD, site=SITE, estimator="odd", flavour=1, catalog=catalog)


def test_pairs_are_put_side_by_side_by_their_numbers(llama: LiveModel, catalog: Catalog) -> None:
    positive = [replace(Example.of(text), pair=place) for place, text in enumerate(WARM)]
    negative = [replace(Example.of(text), pair=place) for place, text in enumerate(COLD)][::-1]
    found = estimate_direction(
        llama,
        positive,
        negative,
        site=SITE,
        estimator="paired",
        catalog=catalog,
        progress=False,
        positions="instruction",
    )
    assert found.provenance["diagnostics"] == {"pairs": 4.0}
    (request,) = SEEN
    assert [example.text for example in request.examples["negative"]] == COLD
    rows = [
        llama.capture([warm], SITE, "instruction", progress=False)[(Site.parse(SITE), Positions("instruction"))].mean
        - llama.capture([cold], SITE, "instruction", progress=False)[(Site.parse(SITE), Positions("instruction"))].mean
        for warm, cold in zip(WARM, COLD, strict=True)
    ]
    assert torch.allclose(request.differences[Site.parse(SITE)], torch.stack(rows), atol=1e-4)
    with pytest.raises(DataError, match="4 positive and 3 negative examples"):
        estimate_direction(llama, WARM, COLD[:3], site=SITE, estimator="paired", catalog=catalog, progress=False)


def test_labelled_classes_give_a_direction_each(llama: LiveModel, catalog: Catalog) -> None:
    classes = {"warm": WARM, "cold": COLD, "night": ["the moon", "a dark sky"]}
    found = estimate_directions(
        llama, classes, site=SITE, estimator="labelled", name="weather", catalog=catalog, progress=False
    )
    assert list(found) == ["weather", "weather.warm", "weather.cold", "weather.night"]
    assert found["weather"].rank == 2
    told = found["weather.cold"].provenance["diagnostics"]
    assert told["distance"]["at"] == ["warm", "cold", "night"] and told["distance"]["over"] == "label"
    assert told["nothing"] is None
    with pytest.raises(DataError, match="takes two classes, positive and negative, not warm, cold, night"):
        estimate_directions(llama, classes, site=SITE, catalog=None, progress=False)


def test_an_estimator_may_choose_sites_and_positions_itself(llama: LiveModel, catalog: Catalog) -> None:
    found = estimate_direction(llama, WARM, COLD, estimator="own", catalog=catalog, progress=False)
    assert (str(found.site), str(found.positions)) == ("blocks.1.resid_post", "instruction")
    with pytest.raises(DataError, match="give a site"):
        estimate_direction(llama, WARM, COLD, catalog=None, progress=False)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("wrong", PluginError, "Wrong gave vectors at blocks.0.resid_post, and was asked for blocks.1.resid_pre"),
        ("narrow", PluginError, r"shape \[1, 3\]"),
        ("silent", DataError, "NaN or infinite"),
        ("failing", PluginError, "'failing' failed to say what it needs: ZeroDivisionError"),
    ],
)
def test_what_breaks_the_contract_is_named(
    llama: LiveModel, catalog: Catalog, name: str, error: type[SteerkitError], said: str
) -> None:
    with pytest.raises(error, match=said):
        estimate_direction(llama, WARM, COLD, site=SITE, estimator=name, catalog=catalog, progress=False)


def test_a_probe_tells_the_classes_apart(llama: LiveModel) -> None:
    found = estimate_direction(
        llama, WARM, COLD, site=SITE, positions="instruction", estimator="logistic_probe", folds=4, progress=False
    )
    assert found.provenance["diagnostics"]["cross-validated accuracy"]["at"] == [SITE]
    assert float(found.vectors.norm()) > 0


# Prompts that are token ids, and what are no prompts.


FORMS = [list, torch.tensor, array, lambda rows: {"input_ids": rows}, lambda rows: [{"input_ids": row} for row in rows]]


@pytest.mark.parametrize("form", [*FORMS, lambda rows: [torch.tensor(row) for row in rows]])
def test_token_ids_are_read_as_they_are(llama: LiveModel, catalog: Catalog, form: Callable[[object], Any]) -> None:
    warm, cold = [[11, 12, 13], [14, 15, 16]], [[21, 22, 23], [24, 25, 26]]
    found = estimate_direction(
        llama, form(warm), form(cold), site=SITE, estimator="odd", catalog=catalog, progress=False
    )
    means = [
        llama.capture(rows, SITE, progress=False)[Site.parse(SITE), Positions.parse(-1)].mean for rows in (warm, cold)
    ]
    assert torch.equal(found.vectors[0], (means[0] - means[1]).float())
    assert found.provenance["n_positive"] == found.provenance["tokens_negative"] == 2
    (request,) = SEEN
    assert [one.fields["token_ids"] for one in request.examples["positive"]] == warm
    assert request.examples["negative"][0].text == llama.decode(cold[0])


def test_one_class_may_be_token_ids_and_the_other_texts(llama: LiveModel) -> None:
    rows = [llama.rendered(text)[0].token_ids for text in WARM]
    mixed = estimate_direction(llama, [list(row) for row in rows], COLD, site=SITE, progress=False)
    assert torch.equal(mixed.vectors, estimate_direction(llama, WARM, COLD, site=SITE, progress=False).vectors)


@pytest.mark.parametrize(
    ("positive", "said"),
    [
        ("one text", "The positive class is one text, and a list of prompts is needed: write [prompt, ...]."),
        (Example.of("a"), "The positive class is one Example, and a list of prompts is needed: write [prompt, ...]."),
        ([1, 2], "The positive class is one row of token ids, and a list of rows is needed: write [[...], ...]."),
        ([], "The positive class needs a list of prompts, at least one."),
        (3, "The positive class needs a list of prompts, at least one, not int."),
        ([[99999]], "Token id 99999 is none of the model's 1000. Encode prompts with its own tokenizer."),
        (
            [["a", 1]],
            "Prompt 1: A conversation is a list of messages {'role': ..., 'content': ...}, and it holds str 'a'.",
        ),
    ],
)
def test_what_is_no_list_of_prompts_is_told(llama: LiveModel, positive: Any, said: str) -> None:
    said = said.replace("1000", str(llama.n_embeddings))
    with pytest.raises(DataError) as caught:
        estimate_direction(llama, positive, COLD, site=SITE, progress=False)
    assert str(caught.value) == said


def test_what_is_no_site_model_or_class_is_told(llama: LiveModel, catalog: Catalog) -> None:
    with pytest.raises(SiteError, match=r"^3 is neither a site, such as 'blocks.14.resid_pre', nor a list of sites\.$"):
        estimate_direction(llama, WARM, COLD, site=3)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="estimate_direction takes a model from steerkit"):
        estimate_direction("x", WARM, COLD, site=SITE)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Classes are a mapping from names to prompts"):
        estimate_directions(llama, [WARM, COLD], site=SITE)  # type: ignore[arg-type]
    with pytest.raises(SteerkitError, match=r"option 'sight': there is none of that name\. Did you mean 'site'"):
        estimate_direction(llama, WARM, COLD, sight=SITE)
    with pytest.raises(DataError, match="takes texts, conversations or Examples, not token ids"):
        estimate_direction(llama, [[1]], COLD, site=SITE, estimator="asking", catalog=catalog)
