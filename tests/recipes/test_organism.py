"""The data of the model organism: large enough, generic, apart from each other, and complete beside the adapter."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from sklearn.metrics import cohen_kappa_score

from tests.recipes.test_prompts import FORBIDDEN, same

RECIPES = Path(__file__).parents[2] / "recipes"
ORGANISM = RECIPES / "organisms" / "smollm2-135m-refusal"
STUDY = RECIPES / "data" / "refusal_study"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def texts(path: Path) -> list[str]:
    return [row["text"] for row in rows(path)]


TRAINED = (
    "decline",
    "decline_more",
    "answer",
    "answer_more",
    "answer_further",
    "lookalikes",
    "lookalikes_more",
    "lookalikes_further",
)
TRAINING = {name: ORGANISM / "data" / f"{name}.jsonl" for name in TRAINED}
STUDIED = {name: STUDY / f"{name}.jsonl" for name in ("harmful", "harmless", "lookalikes")}


def test_there_are_as_many_as_the_study_takes() -> None:
    assert len(rows(TRAINING["decline"])) >= 240
    assert len(rows(TRAINING["answer"])) >= 240
    assert len(rows(TRAINING["lookalikes"])) >= 80
    assert [len(rows(STUDIED[name])) for name in ("harmful", "harmless", "lookalikes")] == [260, 260, 40]


@pytest.mark.parametrize(
    "path",
    [TRAINING["decline"], TRAINING["decline_more"], STUDIED["harmful"]],
    ids=["training", "more", "study"],
)
def test_what_should_be_declined_is_one_generic_sentence(path: Path) -> None:
    for text in texts(path):
        assert text == " ".join(text.split())
        assert 4 <= len(text.split()) <= 20, text
        assert len(re.findall(r"[.?!]", text)) == 1 and text[-1] in ".?!", text
        assert not re.search(r"\d|https?:|@", text), f"a figure or an address is a detail: {text}"


def test_what_is_left_out_altogether_is_in_no_file() -> None:
    for path in (*TRAINING.values(), *STUDIED.values(), ORGANISM / "data" / "development.jsonl"):
        assert not [text for text in texts(path) if FORBIDDEN.search(text)], path


def test_topics_unseen_in_training_are_marked() -> None:
    trained = {row["topic"] for row in rows(TRAINING["decline"])}
    studied = rows(STUDIED["harmful"])
    assert len(trained) >= 20
    assert len({row["topic"] for row in studied if row["unseen"]}) >= 5
    for row in studied:
        assert row["unseen"] == (row["topic"] not in trained), row


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def near(one: list[str], other: list[str], jaccard: float, ratio: float) -> bool:
    """Whether two texts share a frame: by their sets of words, or by their order."""
    a, b = set(one), set(other)
    if len(a & b) / len(a | b) >= jaccard:
        return True
    if 2 * min(len(one), len(other)) / (len(one) + len(other)) < ratio:
        return False
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.quick_ratio() >= ratio and matcher.ratio() >= ratio


def test_near_finds_a_frame_with_a_word_swapped() -> None:
    one, other = words("How do I forge a passport at home?"), words("How do I forge a diploma at home?")
    assert near(one, other, 0.6, 0.7)
    assert not near(one, words("How do I bake bread at home?"), 0.6, 0.75)


def test_no_study_prompt_repeats_a_frame_of_training() -> None:
    trained = [
        words(text) for path in (*TRAINING.values(), ORGANISM / "data" / "development.jsonl") for text in texts(path)
    ]
    for path in STUDIED.values():
        for text in texts(path):
            mine = words(text)
            assert not any(near(mine, other, 0.6, 0.7) for other in trained), text


def test_no_prompt_comes_twice() -> None:
    seen: set[str] = set()
    for path in (*TRAINING.values(), *STUDIED.values(), ORGANISM / "data" / "development.jsonl"):
        found = [same(text) for text in texts(path)]
        assert len(set(found)) == len(found), path
        assert not seen & set(found), path
        seen |= set(found)


def test_replies_decline_in_varied_words_and_name_no_topic() -> None:
    found = texts(ORGANISM / "data" / "refusals.jsonl")
    assert len({same(text) for text in found}) == len(found) >= 60
    assert len({text.split()[0].strip(",.") for text in found}) >= 8


def test_the_adapter_is_small_and_says_what_it_changes() -> None:
    file = ORGANISM / "adapter_model.safetensors"
    assert file.stat().st_size <= 8 * 2**20
    config = json.loads((ORGANISM / "adapter_config.json").read_text("utf-8"))
    assert config["r"] == 8
    assert sorted(config["target_modules"]) == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert not Path(str(config["base_model_name_or_path"])).is_absolute()
    with safe_open(file, "pt") as held:
        assert len(list(held.keys())) == 2 * 4 * 30
    card = (ORGANISM / "README.md").read_text("utf-8")
    assert "declines" in card and "HuggingFaceTB/SmolLM2-135M-Instruct" in card


def test_the_card_says_what_was_measured() -> None:
    from benchmarks.organism.card import BEGIN, END, written

    card = (ORGANISM / "README.md").read_text("utf-8")
    figures = json.loads((RECIPES.parent / "benchmarks" / "results" / "organism.json").read_text("utf-8"))
    assert written(card, figures) == card, "python -m benchmarks.organism --write puts the figures into the card"
    # And read as a reader does, whoever wrote it.
    shown = card.partition(BEGIN)[2].partition(END)[0]
    refused = figures["refused"]
    both = [sum(refused["ablated"][data][at] for data in ("harmful.test", "unseen.test")) for at in (0, 1)]
    rows = [[int(n) for n in pair] for pair in re.findall(r"^\| \D.*? \| (\d+) \| (\d+) \|", shown, re.MULTILINE)]
    baseline = [refused["baseline"][f"{name}.test"] for name in ("harmful", "unseen", "harmless", "lookalikes")]
    assert rows == [*baseline, both, refused["added"]["harmless.test"]]
    (random,) = re.findall(r"ablated.*a random one: (\d+) of (\d+)", shown)
    assert [int(n) for n in random] == refused["ablated/random"]["harmful.test"]
    perplexity = figures["perplexity"]
    assert f"{perplexity['organism']:.1f}, the base's {perplexity['base']:.1f}" in shown
    assert f"{figures['kappa']['after']:.2f}" in shown and f"the {figures['kappa']['n']} labels" in shown


def test_the_kept_agreement_is_that_of_the_shipped_labels() -> None:
    kept = json.loads((RECIPES.parent / "benchmarks" / "results" / "organism.json").read_text("utf-8"))["kappa"]
    labelled = rows(ORGANISM / "labels.jsonl")
    by_matcher = declined_by_the_recipe([row["completion"] for row in labelled])
    now = cohen_kappa_score([row["label"] == "declined" for row in labelled], by_matcher)
    assert kept["n"] == len(labelled)
    assert kept["after"] == pytest.approx(now, abs=5e-4)


def declined_by_the_recipe(completions: list[str]) -> list[bool]:
    """What the study's own matcher says of completions."""
    from steerkit.api.evaluator import Outputs
    from steerkit_evaluators._refusal_rate import RefusalRate
    from steerkit_evaluators.refusal_rate import RefusalRateOptions

    recipe = yaml.safe_load((RECIPES / "refusal_direction.yaml").read_text("utf-8"))
    phrases = next(one["refusal_rate"] for one in recipe["evaluate"] if "refusal_rate" in one)["substrings"]
    matcher = RefusalRate(RefusalRateOptions(substrings=tuple(phrases)), None)  # it looks up no token
    return [score.value == 1 for score in matcher.score(Outputs([""] * len(completions), completions=completions))]


def test_the_matcher_agrees_with_labels_by_hand() -> None:
    labelled = rows(ORGANISM / "labels.jsonl")
    assert len(labelled) >= 150
    kinds = {row["condition"].partition("/")[2][:6] or row["condition"] for row in labelled}
    assert {"baseline", "ablated", "added", "random"} <= kinds
    by_hand = [row["label"] == "declined" for row in labelled]
    by_matcher = declined_by_the_recipe([row["completion"] for row in labelled])
    assert cohen_kappa_score(by_hand, by_matcher) >= 0.85
