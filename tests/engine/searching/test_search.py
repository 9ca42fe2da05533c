"""A search against a literal one: whole passes, one candidate at a time, every score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.api.intervention import Placement
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.searching.alike import AlikePrompts
from steerkit.engine.searching.scorers import Choice, Probe, mean_of
from steerkit.engine.searching.search import CandidateSearch, Searched
from steerkit.errors import DataError
from steerkit.selection import Bound, LayerBound, Rule
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Example, Site
from steerkit_evaluators._kl_divergence import KlDivergence
from steerkit_evaluators._refusal_score import RefusalScore
from steerkit_evaluators.kl_divergence import KlDivergenceOptions
from steerkit_evaluators.refusal_score import RefusalScoreOptions

HARMFUL = tuple(Example.of(f"The same words first, then number {number}") for number in range(5))
HARMLESS = tuple(Example.of(f"The same words first, now {word}") for word in ("a", "some more", "two of them", "b"))


def choices(live: LiveModel, positions: Sequence[int] = (-2, -1)) -> list[Choice]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for position in positions:
        for layer in range(live.layout.n_layers):
            vector = 3 * torch.randn(1, live.layout.d_model, generator=generator)
            site = Site("resid_pre", layer)
            found.append(Choice(position, site, Direction(vector, site, position, "d")))
    return found


def probes(live: LiveModel) -> list[Probe]:
    refusal = RefusalScore(RefusalScoreOptions(tokens=(5, 9)), live.vocabulary)
    kl = KlDivergence(KlDivergenceOptions(), live.vocabulary)
    logits, compared = Needs(next_token_logits=True), Needs(next_token_logits=True, baseline=True)
    return [
        Probe("bypass", refusal, logits, "harmful", HARMFUL, lambda one: (ablate(one),)),
        Probe("induce", refusal, logits, "harmless", HARMLESS, lambda one: (add(one),)),
        Probe("kl", kl, compared, "harmless", HARMLESS, lambda one: (ablate(one),), (-math.log1p(259e-6), math.inf)),
    ]


def literal(live: LiveModel, one: Choice) -> dict[str, float]:
    """The three scores of a candidate by whole passes."""
    refusal = RefusalScore(RefusalScoreOptions(tokens=(5, 9)), live.vocabulary)
    kl = KlDivergence(KlDivergenceOptions(), live.vocabulary)

    def logits(examples: Sequence[Example], steer: Placement) -> torch.Tensor:
        with live.steer(steer, mode="hook"):
            return next_token_logits(live, examples)

    def mean(scores: Sequence[Score]) -> float:
        return sum(score.value for score in scores) / len(scores)

    texts, others = [one.text for one in HARMFUL], [one.text for one in HARMLESS]
    plain = Outputs(others, next_token_logits(live, HARMLESS))
    ablated, added = ablate(one.direction), add(one.direction)
    return {
        "bypass": mean(refusal.score(Outputs(texts, logits(HARMFUL, ablated)))),
        "induce": mean(refusal.score(Outputs(others, logits(HARMLESS, added)))),
        "kl": mean(kl.score(Outputs(others, logits(HARMLESS, ablated), baseline=plain))),
    }


def rule(kl: float = math.inf, induce: float = -math.inf, share: float = 1.0) -> Rule:
    bounds = (Bound("kl", "kl", at_most=kl), Bound("induce", "induce", at_least=induce))
    return Rule("bypass", bounds, LayerBound(share))


def run(live: LiveModel, chosen: Rule, *, exhaustive: bool = False) -> Searched:
    return CandidateSearch(live, probes(live), chosen, exhaustive=exhaustive).run(choices(live))


def test_an_exhaustive_search_scores_every_candidate_as_whole_passes_do(llama: LiveModel) -> None:
    found = run(llama, rule(kl=-1.0), exhaustive=True)
    for one, scored in zip(choices(llama), found.scored, strict=True):
        expected = literal(llama, one)
        assert set(scored.scores) == set(expected)
        for name, value in expected.items():
            assert scored.scores[name] == pytest.approx(value, abs=1e-4), (one.site, name)
        assert scored.failed == "kl"
        assert len(scored.by_example["bypass"]) == len(HARMFUL)
    assert all(stage.asked == len(found.scored) for stage in found.stages)


def test_a_search_that_runs_again_scores_what_it_is_given_now(llama: LiveModel) -> None:
    """A direction of a run that is over may lie where another one lay: nothing is known of it by its place."""
    search = CandidateSearch(llama, probes(llama), rule(), exhaustive=True)
    (first, *_), (other, *_) = choices(llama, (-1,)), choices(llama, (-2, -1))[2:]
    turned = replace(first, direction=first.direction.replace(vectors=other.direction.vectors))
    before = search.run([first]).scored[0].scores
    place = id(first.direction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probe, "same_for", lambda self, choice: (place, None))
        after = search.run([turned]).scored[0].scores
    assert before["bypass"] == pytest.approx(literal(llama, first)["bypass"], abs=1e-4)
    assert after["bypass"] == pytest.approx(literal(llama, turned)["bypass"], abs=1e-4) != before["bypass"]


def test_scores_under_the_same_interventions_come_from_the_same_passes(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    own = AlikePrompts.logits

    def logits(self: AlikePrompts, placements: Sequence[Placement], *, layer: int | None = None) -> object:
        if placements:
            asked.append((len(self.prompts), type(placements[0].intervention).__name__.lower()))
        return own(self, placements, layer=layer)

    monkeypatch.setattr(AlikePrompts, "logits", logits)
    found = run(llama, rule(kl=-1.0), exhaustive=True)
    # Both prompt sets under ablation at once, the harmless ones under addition by themselves.
    both, n = len(HARMFUL) + len(HARMLESS), len(found.scored)
    assert sorted(asked) == sorted([(both, "ablate")] * n + [(len(HARMLESS), "add")] * n)
    asked.clear()
    pruned = run(llama, rule())
    assert sorted({size for size, _ in asked}) == sorted({len(HARMFUL), len(HARMLESS)})
    assert found.baseline.keys() == pruned.baseline.keys() == {"bypass", "induce", "kl"}
    for name, value in pruned.baseline.items():
        assert found.baseline[name] == pytest.approx(value, abs=1e-5)


def test_a_pruned_search_asks_only_for_who_is_left_and_agrees_on_them(llama: LiveModel) -> None:
    table = [literal(llama, one) for one in choices(llama)]
    middle = sorted(row["kl"] for row in table)[len(table) // 2]
    low = sorted(row["induce"] for row in table)[len(table) // 3]
    chosen = rule(kl=middle + 1e-3, induce=low - 1e-3, share=0.7)
    outside = int(0.7 * llama.layout.n_layers)
    found = run(llama, chosen)
    # Adding runs a part of the layers only, so it is asked first; then the other bound, the objective last.
    assert [stage.name for stage in found.stages] == ["induce", "kl", "bypass"]
    alive = []
    for one, row, scored in zip(choices(llama), table, found.scored, strict=True):
        failed = None
        if one.site.layer >= outside:
            failed = "layer"
        elif row["induce"] < low - 1e-3:
            failed = "induce"
        elif row["kl"] > middle + 1e-3:
            failed = "kl"
        assert scored.failed == failed
        assert ("bypass" in scored.scores) == (failed is None)
        alive += [scored] if failed is None else []
        if failed is None:
            assert scored.scores == {name: pytest.approx(value, abs=1e-4) for name, value in row.items()}
    assert 0 < len(alive) < len(table)
    assert [stage.alive for stage in found.stages][-1] == len(alive)
    assert found.stages[-1].asked == len(alive)


@pytest.mark.parametrize("exhaustive", [False, True])
def test_candidates_side_by_side_score_as_they_do_alone(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch, exhaustive: bool
) -> None:
    table = sorted(literal(llama, one)["induce"] for one in choices(llama))
    chosen = rule(induce=table[len(table) // 3] - 1e-3, share=0.7)
    alone = run(llama, chosen, exhaustive=exhaustive)
    read: list[int] = []
    own = AlikePrompts.logits_of_each

    def counted(self: AlikePrompts, conditions: Sequence[Sequence[Placement]]) -> list[torch.Tensor]:
        read.append(len(conditions))
        return own(self, conditions)

    monkeypatch.setattr(AlikePrompts, "logits_of_each", counted)
    monkeypatch.setattr(AlikePrompts, "side_by_side", 4)
    found = run(llama, chosen, exhaustive=exhaustive)
    assert [stage.name for stage in found.stages] == [stage.name for stage in alone.stages]
    for one, other in zip(found.scored, alone.scored, strict=True):
        assert one.failed == other.failed
        assert one.scores == {name: pytest.approx(value, abs=1e-4) for name, value in other.scores.items()}
        assert one.by_example.keys() == other.by_example.keys()
    asked = [stage.asked for stage in alone.stages]
    times = [asked[0], asked[1]] if exhaustive else asked  # two scores of one ablation
    assert read == [size for many in times for size in [4] * (many // 4) + [many % 4] * bool(many % 4)]


def test_a_bound_that_must_fail_ends_a_score_early(llama: LiveModel) -> None:
    class Counted(RefusalScore):
        seen = 0

        def score(self, outputs: Outputs) -> Sequence[Score]:
            type(self).seen += len(outputs.texts)
            return [Score(1.0) for _ in outputs.texts]

    evaluator = Counted(RefusalScoreOptions(tokens=(5,)), llama.vocabulary)
    # Lengths so unlike that each is a piece of its own.
    examples = tuple(Example.of("word " * length) for length in (40, 30, 20, 10))
    needs = Needs(next_token_logits=True)
    probe = Probe("cost", evaluator, needs, "texts", examples, lambda one: (ablate(one),), (0.0, 2.0))
    aim = Probe("aim", evaluator, needs, "texts", examples, lambda one: (ablate(one),))
    search = CandidateSearch(llama, [probe, aim], Rule("aim", (Bound("cost", "cost", at_most=0.4),)))
    (scored,) = search.run(choices(llama)[:1]).scored
    # One and one make a mean of at least a half, whatever the others give. (All four are scored without steering too.)
    assert scored.failed == "cost"
    assert Counted.seen - len(examples) == 2
    assert scored.broken_off == {"cost": 0.5}
    assert scored.scores == {}
    for bound in (Bound("cost", "cost", at_least=1.9), Bound("cost", "cost", at_most=1.0)):
        Counted.seen = 0
        (scored,) = CandidateSearch(llama, [probe, aim], Rule("aim", (bound,))).run(choices(llama)[:1]).scored
        assert scored.failed == ("cost" if bound.at_least else None)
        assert Counted.seen == (4 + 1 if bound.at_least else 8 + 8)


def test_a_score_that_is_no_number_removes_its_candidate(llama: LiveModel) -> None:
    class Broken(Evaluator[NoOptions]):
        def score(self, outputs: Outputs) -> Sequence[Score]:
            return [Score(math.nan) for _ in outputs.texts]

    broken = Broken(NoOptions(), llama.vocabulary)
    probe = Probe("aim", broken, Needs(next_token_logits=True), "texts", HARMFUL, lambda one: (ablate(one),))
    (scored,) = CandidateSearch(llama, [probe], Rule("aim")).run(choices(llama)[:1]).scored
    assert scored.failed == "nan"


def test_an_evaluator_that_reads_completions_scores_candidates_as_conditions(llama: LiveModel) -> None:
    class Length(Evaluator[NoOptions]):
        def score(self, outputs: Outputs) -> Sequence[Score]:
            assert outputs.completions is not None
            return [Score(float(len(text))) for text in outputs.completions]

    needs = Needs(max_new_tokens=4)
    probe = Probe("aim", Length(NoOptions(), llama.vocabulary), needs, "texts", HARMFUL, lambda one: (add(one),))
    chosen = choices(llama)[:2]
    found = CandidateSearch(llama, [probe], Rule("aim")).run(chosen)
    for one, scored in zip(chosen, found.scored, strict=True):
        with llama.steer(add(one.direction)):
            written = llama.generate(HARMFUL, max_new_tokens=4)
        assert scored.by_example["aim"] == tuple(float(len(text)) for text in written)


def test_a_rule_of_scores_that_there_are_not_is_refused(llama: LiveModel) -> None:
    with pytest.raises(DataError, match="no such score"):
        CandidateSearch(llama, probes(llama)[:1], rule())


def test_a_mean_of_infinite_scores_of_two_signs_is_no_number() -> None:
    assert math.isnan(mean_of([Score(math.inf), Score(-math.inf), Score(1.0)]))
    assert mean_of([Score(math.inf), Score(1.0)]) == math.inf


class Wild(Evaluator[NoOptions]):
    """Gives what it is told to, whatever it sees."""

    values: tuple[float, ...] = ()

    def score(self, outputs: Outputs) -> Sequence[Score]:
        return [Score(value) for value in self.values[: len(outputs.texts)]]


@pytest.mark.parametrize("exhaustive", [False, True])
@pytest.mark.parametrize(
    ("values", "failed"),
    [
        ((math.inf, -math.inf, 1.0, 1.0), "nan"),
        ((math.nan, 1.0, 1.0, 1.0), "nan"),
        ((math.inf, 1.0, 1.0, 1.0), "nan"),
        ((-math.inf, 1.0, 1.0, 1.0), "nan"),
        ((1e308, 1e308, 1e308, 1e308), "nan"),
        ((3.0, 3.0, 3.0, 3.0), "wild"),
        ((0.0, 1.0, 1.0, 1.0), None),
    ],
)
def test_infinite_scores_remove_a_candidate_and_nothing_else(
    llama: LiveModel, values: tuple[float, ...], failed: str | None, exhaustive: bool
) -> None:
    evaluator = Wild(NoOptions(), llama.vocabulary)
    evaluator.values = values
    needs = Needs(next_token_logits=True)
    # Limits make the search add up what it knows before all of it is there.
    wild = Probe("wild", evaluator, needs, "harmless", HARMLESS, lambda one: (add(one),), (0.0, math.inf))
    (bypass, *_) = probes(llama)
    chosen = Rule("bypass", (Bound("wild", "wild", at_most=2.0),))
    found = CandidateSearch(llama, [bypass, wild], chosen, exhaustive=exhaustive).run(choices(llama, (-1,)))
    assert [one.failed for one in found.scored] == [failed] * len(found.scored)
