"""``activation_cosine`` against numbers worked out by hand, plain hooks, and a direction that is known to be right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Outputs
from steerkit.api.hookspecs import Needs
from steerkit.engine.measuring.evaluate import Evaluation, Job
from steerkit.engine.searching.scorers import Choice, Probe
from steerkit.engine.searching.search import CandidateSearch
from steerkit.errors import PluginError
from steerkit.selection import COSMIC, Rule
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit.types import Example, Positions, Site
from steerkit_evaluators import activation_cosine as plugin
from steerkit_evaluators._activation_cosine import ActivationCosine
from steerkit_evaluators.activation_cosine import ActivationCosineOptions

LAST = Positions.parse("-1")
BAD = tuple(Example.of(f"The same words first, then number {number}") for number in range(5))
GOOD = tuple(Example.of(f"The same words first, now {word}") for word in ("a", "some more", "two of them", "b"))


def options(**changes: object) -> ActivationCosineOptions:
    return ActivationCosineOptions.model_validate({"like": "good", "classes": ("bad", "good"), "share": 0.5, **changes})


def outputs(by_layer: Mapping[int, Sequence[Sequence[float]]], **more: object) -> Outputs:
    """Outputs with one token a prompt: ``{layer: [n, d_model]}``."""
    held = {
        (Site("resid_post", layer), LAST): [torch.tensor([row]) for row in rows] for layer, rows in by_layer.items()
    }
    number = len(next(iter(by_layer.values())))
    return Outputs([""] * number, activations=held, **more)  # type: ignore[arg-type]


REFERENCES = {
    # At layer 0 the classes are alike, at 1 at right angles, at 2 opposite, at 3 alike but for length.
    "good": outputs({0: [[1, 1], [3, 3]], 1: [[2, 0], [4, 0]], 2: [[0, 1], [0, 1]], 3: [[1, 0], [1, 0]]}),
    "bad": outputs({0: [[2, 2]], 1: [[0, 5]], 2: [[0, -2]], 3: [[9, 0]]}),
}
OWN = {0: [[7, 7], [7, 7]], 1: [[2, 2], [0, 4]], 2: [[2, 0], [0, 2]], 3: [[1, 0], [1, 0]]}


def test_it_is_the_cosine_of_the_means_on_the_layers_where_the_classes_are_least_alike() -> None:
    scored = ActivationCosine(options(), FakeVocabulary(9)).score(outputs(OWN, references=REFERENCES))
    # Layers 2 and 1 count. Per prompt their mean is (2, 1) and (0, 3), in the mean (1, 2); that of good is (1.5, 0.5).
    expected = (1 * 1.5 + 2 * 0.5) / (math.sqrt(5) * math.sqrt(2.5))
    assert sum(one.value for one in scored) / 2 == pytest.approx(expected, abs=1e-12)
    # What each prompt contributes: (2, 1) and (0, 3) along (1.5, 0.5), over both lengths.
    lengths = math.sqrt(5) * math.sqrt(2.5)
    assert [one.value for one in scored] == pytest.approx([3.5 / lengths, 1.5 / lengths], abs=1e-12)


def test_layers_one_behind_the_other_and_a_share_of_them() -> None:
    given = outputs(OWN, references=REFERENCES)
    one = ActivationCosine(options(share=0.1), FakeVocabulary(9)).score(given)
    # At least one layer, 2: the mean (1, 1) beside (0, 1).
    assert sum(score.value for score in one) / 2 == pytest.approx(1 / math.sqrt(2))
    both = ActivationCosine(options(combine="concatenate"), FakeVocabulary(9)).score(given)
    # (1, 3, 1, 1) beside (3, 0, 0, 1).
    assert sum(score.value for score in both) / 2 == pytest.approx(4 / (math.sqrt(12) * math.sqrt(10)))


def test_what_has_no_cosine_is_nan() -> None:
    flat = {layer: [[0.0, 0.0]] for layer in range(4)}
    (score,) = ActivationCosine(options(), FakeVocabulary(9)).score(outputs(flat, references=REFERENCES))
    assert math.isnan(score.value)


def test_a_missing_reference_is_the_runner_s_fault() -> None:
    with pytest.raises(PluginError, match="other examples' activations"):
        ActivationCosine(options(), FakeVocabulary(9)).score(outputs(OWN))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "[-2:][*]"}, "read together"),
        ({"positions": "lest"}, "lest"),
        ({"share": 0}, "greater than 0"),
        ({"classes": ["one"]}, "classes"),
        ({"stream": "head_out"}, "resid_post"),
    ],
)
def test_options_that_can_not_be_meant(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**changes)


class TestConformance(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"like": "good", "classes": ["bad", "good"]}


class TestOneBehindTheOther(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {
        "like": "good",
        "classes": ["bad", "good"],
        "combine": "concatenate",
        "share": 1.0,
    }


# On a live model, against plain hooks


def block_outputs(live: LiveModel, prompts: Sequence[Example], handles: Callable[[], list[object]]) -> Tensor:
    """``[n, layers, d_model]`` in float64: what every block gives at the last token, one prompt at a time."""
    rows = []
    attached = handles()
    taken: list[Tensor] = []
    for block in live.model.model.layers:
        attached.append(
            block.register_forward_hook(
                lambda module, args, out: taken.append((out[0] if isinstance(out, tuple) else out)[0, -1].double())
            )
        )
    try:
        for prompt in live.rendered(prompts):
            taken.clear()
            with torch.no_grad():
                live.model(input_ids=torch.tensor([prompt.token_ids]))
            rows.append(torch.stack(taken))
    finally:
        for handle in attached:
            handle.remove()  # type: ignore[attr-defined]
    return torch.stack(rows)


def no_hooks() -> list[object]:
    return []


def ablating(live: LiveModel, vector: Tensor) -> Callable[[], list[object]]:
    unit = vector / vector.norm()

    def out(x: Tensor) -> Tensor:
        return x - (x @ unit)[..., None] * unit

    def before(module: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:
        if args:
            return (out(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": out(kwargs["hidden_states"])}  # type: ignore[arg-type]

    def after(module: object, args: object, value: object) -> object:
        return (out(value[0]), *value[1:]) if isinstance(value, tuple) else out(value)  # type: ignore[arg-type]

    def attach() -> list[object]:
        found: list[object] = []
        for block in live.model.model.layers:
            found.append(block.register_forward_pre_hook(before, with_kwargs=True))
            found += [block.self_attn.register_forward_hook(after), block.mlp.register_forward_hook(after)]
        return found

    return attach


def adding(live: LiveModel, vector: Tensor, layer: int) -> Callable[[], list[object]]:
    def before(module: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:
        if args:
            return (args[0] + vector, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + vector}  # type: ignore[operator]

    return lambda: [live.model.model.layers[layer].register_forward_pre_hook(before, with_kwargs=True)]


def cosine(one: Tensor, other: Tensor, layers: Sequence[int]) -> float:
    """Of the means over prompts and layers."""
    return float(torch.cosine_similarity(one[:, layers].mean((0, 1)), other[:, layers].mean((0, 1)), dim=0))


def needs(share: float, like: str, stream: str = "resid_post") -> tuple[ActivationCosineOptions, Needs]:
    chosen = options(share=share, like=like, stream=stream)
    (spec,) = plugin.steerkit_evaluators()
    return chosen, spec.needs(chosen)


def probes(live: LiveModel, share: float, stream: str = "resid_post") -> list[Probe]:
    referred = {"good": GOOD, "bad": BAD}
    found = []
    for name, rows, like, place in (
        ("comply_score", BAD, "good", lambda one: (ablate(one),)),
        ("refuse_score", GOOD, "bad", lambda one: (add(one),)),
    ):
        chosen, wanted = needs(share, like, stream)
        evaluator = ActivationCosine(chosen, live.vocabulary)
        found.append(Probe(name, evaluator, wanted, f"{name} data", rows, place, references=referred))
    return found


def choices(live: LiveModel) -> list[Choice]:
    generator, found = torch.Generator().manual_seed(3), []
    for layer in range(live.layout.n_layers):
        vector = 3 * torch.randn(1, live.layout.d_model, generator=generator)
        site = Site("resid_pre", layer)
        found.append(Choice(-1, site, Direction(vector, site, -1, "d")))
    return found


AIM = Rule("comply_score", maximise=True, plus=("refuse_score",))


def test_every_candidate_scores_as_plain_hooks_say(llama: LiveModel) -> None:
    good, bad = (block_outputs(llama, rows, no_hooks) for rows in (GOOD, BAD))
    alike = torch.cosine_similarity(good.mean(0), bad.mean(0), dim=-1)
    layers = alike.argsort()[:2].tolist()  # int(0.7 · 3)
    found = CandidateSearch(llama, probes(llama, 0.7), AIM).run(choices(llama))
    for one, scored in zip(choices(llama), found.scored, strict=True):
        vector = one.direction.vectors[0]
        comply = cosine(block_outputs(llama, BAD, ablating(llama, vector)), good, layers)
        refuse = cosine(block_outputs(llama, GOOD, adding(llama, vector, one.site.layer)), bad, layers)
        assert scored.scores == {
            "comply_score": pytest.approx(comply, abs=1e-5),
            "refuse_score": pytest.approx(refuse, abs=1e-5),
        }
    # Without an intervention each class is as like the other.
    unsteered = cosine(bad, good, layers)
    assert found.baseline == {name: pytest.approx(unsteered, abs=1e-5) for name in AIM.aims}


def test_the_direction_that_leads_from_one_class_to_the_other_wins(llama: LiveModel) -> None:
    """The stream at layer 1 is read where it is edited: adding the difference of the means gives the other mean."""
    good, bad = (block_outputs(llama, rows, no_hooks)[:, 0].mean(0) for rows in (GOOD, BAD))
    site = Site("resid_pre", 1)
    others = [replaced(one, site) for one in choices(llama)]
    right = Choice(-1, site, Direction((bad - good)[None].float(), site, -1, "d"), "right")
    # One layer counts: of the inputs of blocks 1 and 2 that on which the means are less alike.
    found = CandidateSearch(llama, probes(llama, 0.1, "resid_pre"), AIM).run([*others, right])
    totals = [sum(one.scores.values()) for one in found.scored]
    assert max(range(len(totals)), key=totals.__getitem__) == len(totals) - 1
    assert totals[-1] > sum(found.baseline.values()) > 0
    # The one that counts is layer 1, where harmless prompts now have the other mean itself.
    assert found.scored[-1].scores["refuse_score"] == pytest.approx(1.0, abs=1e-6)
    assert all(one.scores["refuse_score"] < 0.999 for one in found.scored[:-1])


def replaced(one: Choice, site: Site) -> Choice:
    return Choice(one.position, site, Direction(one.direction.vectors, site, -1, "d"), str(one.site))


def test_prompts_are_scored_at_once_beside_evaluators_of_logits(llama: LiveModel) -> None:
    """More prompts than logits are held of at a time are one mean all the same."""
    from steerkit.engine.measuring.references import reference_name

    many = tuple(Example.of(f"number {number}") for number in range(300))
    chosen, wanted = needs(0.5, "good")
    seen: list[int] = []

    class Counted(ActivationCosine):
        def score(self, outputs: Outputs) -> object:  # type: ignore[override]
            seen.append(len(outputs.texts))
            return super().score(outputs)

    rows = {"many": list(many), reference_name("good"): list(GOOD), reference_name("bad"): list(BAD)}
    job = Job("alike", Counted(chosen, llama.vocabulary), wanted, "many")
    Evaluation(llama, [job], rows).run([])
    assert seen == [300]


def test_the_rule_adds_both_scores_up() -> None:
    assert COSMIC.aims == ("comply_score", "refuse_score")
    assert COSMIC.scores == ("comply_score", "refuse_score", "kl_div_score")
    assert COSMIC.maximise
