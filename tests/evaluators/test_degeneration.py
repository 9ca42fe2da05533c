from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import steerkit_evaluators.degeneration as plugin
from steerkit.api.evaluator import Outputs, Score
from steerkit.engine.measuring.scores import summarise
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._degeneration import Degeneration

LOOP = "The sun is warm and the sea is wide. "
PROSE = (
    "A fridge keeps food cold by moving heat from its inside to the room. A compressor squeezes a gas until it is hot; "
    "the coils at the back let that heat go, and the gas becomes a liquid. It then passes a narrow valve, boils at low "
    "pressure, and takes up heat again where your milk stands. A thermostat decides when the motor runs."
)


class TestConformance(EvaluatorSuite):
    plugin = plugin

    def completions(self) -> Sequence[str]:
        # Long enough for every measure: what is too short has no number, and a test of its own.
        return [PROSE, LOOP * 9, LOOP, PROSE[:60], "日本語 の 文章 です", "one two three four five six"]


def of(*completions: str, **options: object) -> Sequence[Mapping[str, Score]]:
    evaluator = Degeneration(plugin.DegenerationOptions(**options), FakeVocabulary(4))
    return evaluator.score(Outputs(["x"] * len(completions), completions=completions))


def value(text: str, name: str, **options: object) -> float:
    return of(text, **options)[0][name].value


def test_compression_is_the_compressed_size_over_the_size() -> None:
    for text in (PROSE, LOOP * 3, "温暖な海" * 5):
        raw = text.encode()
        assert value(text, "compression") == len(zlib.compress(raw, 9)) / len(raw)


def test_distinct_ngrams_by_hand() -> None:
    # a b, b a, a b, b a, a c: three of five; a b a, b a b, a b a, b a c: three of four.
    assert value("a b A b a c", "distinct_2") == 3 / 5
    assert value("a b A b a c", "distinct_3") == 3 / 4
    assert value("a b c d", "distinct_2") == 1.0


def test_what_is_too_short_is_left_out_and_never_zero() -> None:
    short = of("No.", "one two", "", "x" * 19)
    assert all(math.isnan(one["compression"].value) and one["compression"].weight == 0 for one in short)
    assert math.isnan(short[1]["distinct_3"].value) and short[1]["distinct_2"].value == 1.0
    assert math.isnan(short[2]["distinct_2"].value)
    assert not math.isnan(value("x" * 20, "compression"))
    both = [one["compression"] for one in of("No.", PROSE)]
    assert summarise(both, "mean").value == value(PROSE, "compression") and summarise(both, "mean").n == 1
    assert summarise([one["compression"] for one in short], "mean").value is None


def test_a_loop_is_degenerate_and_prose_is_not() -> None:
    assert value(LOOP * 9, "degenerate") == 1.0 and value("no " * 40, "degenerate") == 1.0
    assert value(PROSE, "degenerate") == 0.0
    assert value("no " * 33, "degenerate") == 0.0, "99 bytes"
    assert value("no " * 33, "degenerate", from_bytes=99) == 1.0
    assert value("", "degenerate") == 0.0 and value("", "degenerate", from_bytes=1) == 0.0
    assert value(PROSE, "degenerate", below=0.99) == 1.0


def test_ordinary_text_of_any_length_is_above_the_default_threshold() -> None:
    root = Path(__file__).parents[2] / "recipes" / "data"
    texts = [json.loads(line)["text"] for line in (root / "plain_text.jsonl").read_text().splitlines()]
    whole = " ".join(texts)
    for size in (100, 300, 1000, 3000):
        for start in range(0, len(whole) - size, size):
            assert value(whole[start : start + size], "degenerate") == 0.0


def test_its_completions_are_those_of_the_refusal_rate() -> None:
    from steerkit_evaluators.refusal_rate import RefusalRateOptions

    (spec,) = plugin.steerkit_evaluators()
    assert spec.needs(plugin.DegenerationOptions()).max_new_tokens == RefusalRateOptions().max_new_tokens


def test_missing_outputs_are_a_broken_contract() -> None:
    with pytest.raises(PluginError, match="degeneration needs completions"):
        Degeneration(plugin.DegenerationOptions(), FakeVocabulary(4)).score(Outputs(["x"]))
