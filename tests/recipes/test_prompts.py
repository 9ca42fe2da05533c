"""The prompt sets that ship: well-formed, distinct, short, matched, and large enough for the recipes that use them."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

from steerkit.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted((RECIPES / "data").glob("*.jsonl"))
WRITTEN = sorted(RECIPES.rglob("*.yaml"))
CLASSES = [("verse", "prose"), ("harmful", "harmless")]
PROMPTS = ("verse", "prose", "probes", "harmful", "harmless")

FORBIDDEN = re.compile(
    r"\b(sex\w*|porn\w*|nude\w*|nerve (gas|agent)\w*|chemical|biological|anthrax|pathogen\w*|"
    r"toxin\w*|nuclear|uranium|radioactive)\b",
    re.IGNORECASE,
)
"""Subjects that shipped prompts leave out altogether."""


def texts(name: str) -> list[str]:
    lines = (RECIPES / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def same(text: str) -> str:
    """What two texts have in common when only case, spaces or punctuation tell them apart."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_line_is_one_clean_text(path: Path) -> None:
    raw = path.read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    for line in raw.decode("utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"text"}
        text = row["text"]
        assert text == " ".join(text.split()), "spaces at the ends, double spaces or line breaks"
        assert text[0].isupper() and text[-1] in ".?!", text


def test_no_text_comes_twice_in_any_set_or_pair_of_sets() -> None:
    seen = {path.stem: [same(text) for text in texts(path.stem)] for path in FILES}
    assert len(seen) == 6
    for name, found in seen.items():
        assert len(set(found)) == len(found), name
    for one, other in combinations(seen, 2):
        assert not set(seen[one]) & set(seen[other]), (one, other)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_one_short_sentence(name: str) -> None:
    for text in texts(name):
        assert 3 <= words(text) <= 14, text
        assert len(re.findall(r"[.?!]", text)) == 1, text


def test_plain_text_is_short_enough_to_be_read_whole() -> None:
    for text in texts("plain_text"):
        assert 20 <= words(text) <= 50, text


@pytest.mark.parametrize("pair", CLASSES, ids="-".join)
def test_classes_are_matched_in_size_and_length(pair: tuple[str, str]) -> None:
    positive, negative = texts(pair[0]), texts(pair[1])
    assert len(positive) == len(negative) >= 64
    assert mean(map(words, positive)) == pytest.approx(mean(map(words, negative)), rel=0.15)


def test_requests_to_decline_are_generic() -> None:
    for text in texts("harmful"):
        assert not re.search(r"\d|https?:|@", text), f"a figure or an address is a detail: {text}"
        assert words(text) <= 12, text
    for name in PROMPTS:
        assert not [text for text in texts(name) if FORBIDDEN.search(text)], name


def test_harmful_and_harmless_requests_open_in_the_same_ways() -> None:
    """So that a direction can't be the difference between a question and an order."""
    first = [{text.split()[0] for text in texts(name)} for name in ("harmful", "harmless")]
    assert first[0] == first[1]


def test_shipped_recipes_use_every_file_and_ask_for_no_more_than_it_holds() -> None:
    used: set[Path] = set()
    for path in WRITTEN:
        recipe = load_recipe(path)
        for dataset in recipe.recipe.data.values():
            if dataset.file is None:
                continue
            file = recipe.path_of(dataset.file)
            used.add(file)
            wanted = sum(dataset.split.sizes.values()) if dataset.split is not None else 0
            where = dataset.where or {}
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            held = [row for row in rows if all(row[key] == value for key, value in where.items())]
            assert wanted <= len(held), (path, file)
    assert used == {path.resolve() for path in (*FILES, *(RECIPES / "data" / "refusal_study").glob("*.jsonl"))}


def test_probes_ask_for_neither_class_of_the_quickstart() -> None:
    asked = re.compile(r"verse|poem|poetry|rhym|song|sonnet|ballad|report|summary|instructions|prose", re.IGNORECASE)
    assert not [text for text in texts("probes") if asked.search(text)]
