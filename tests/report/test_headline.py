"""Which of many measures a reader meets first, on the page, in its first table and in a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from steerkit.artifacts.reading import Results, Sample
from steerkit.report import load_run, write_report
from steerkit.report.glance import make_glance
from steerkit.report.headline import FEW, headline, opened
from steerkit.report.html import SampleGroup, spread
from steerkit.report.numbers import breakable_parts
from steerkit.report.tables import make_blocks
from steerkit.report.terminal import print_summary
from tests.report.study import DATA, study


def many() -> dict[str, Any]:
    """A study of which a monitor reads the prompts, and whose completions are looked at in three more ways."""
    results = study()
    rates = [one for one in results["records"] if one["evaluator"] == "refused"]
    for name, tokens in (("crossed", 0), ("second_matcher_of_phrases", 64), ("third", 64)):
        results["evaluators"].append(
            {"name": name, "aggregate": "proportion", "unit": "fraction", "options": {"max_new_tokens": tokens}}
        )
        results["records"] += [{**one, "evaluator": name} for one in rates]
    for one in [*results["records"]]:
        if one["evaluator"] == "crossed" and one["data"] == DATA[0]:
            results["records"].append({**one, "data": "monitored.test"})
    return results


def blocks_of(results: dict[str, Any]) -> Any:
    return make_blocks(Results.model_validate(results))


def test_of_each_data_set_the_first_verdict_on_completions() -> None:
    found = headline(blocks_of(many()))
    assert [block.name for block in found] == [f"refused on {data}" for data in DATA]


def test_a_judge_goes_before_rules_and_a_run_without_verdicts_has_its_own() -> None:
    results = many()
    results["evaluators"].append({"name": "judged", "aggregate": "proportion", "role": "judge"})
    rates = [one for one in results["records"] if one["evaluator"] == "refused" and one["data"] == DATA[1]]
    results["records"] += [{**one, "evaluator": "judged"} for one in rates]
    names = {block.data: block.evaluator.name for block in headline(blocks_of(results))}
    assert names == {DATA[0]: "refused", DATA[1]: "judged", DATA[2]: "refused"}
    for entry in results["evaluators"]:
        entry.update(aggregate="mean", options={})
    for record in results["records"]:
        record["aggregate"] = "mean"
    assert {block.data for block in headline(blocks_of(results))} == {*DATA, "monitored.test"}


def test_a_small_run_is_open_as_a_whole() -> None:
    small, large = blocks_of(study()), blocks_of(many())
    assert len(small) <= FEW < len(large)
    assert opened(small) == small and opened(large) == headline(large)


@pytest.fixture
def large_run(build: Any) -> Path:
    path: Path = build(many(), samples=[])
    return path


def test_the_page_opens_the_first_measures_and_folds_the_others(large_run: Path) -> None:
    page = write_report(large_run).read_text(encoding="utf-8")
    for section in ("found", "conditions"):
        text = page.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        folds = re.findall(r"<summary>(.*?)</summary>", text)
        assert f"second_matcher_of_phrases on {', '.join(DATA)}" in folds
        unfolded = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
        headings = [re.sub(r"<[^>]+>", "", one) for one in re.findall(r"<h3[^>]*>(.*?)</h3>", unfolded)]
        assert headings[:3] == [f"refused on {data}" for data in DATA]
        assert not any("third" in one for one in headings)
        # Folded, not dropped.
        assert "third on harmful.test" in re.sub(r"<[^>]+>", "", text)


def test_the_first_table_has_every_condition() -> None:
    read = Results.model_validate(many())
    glance = make_glance(read, make_blocks(read))
    told = [(one.row.condition.name, one.block.name) for group in glance.groups for one in group.rows]
    assert told == [(name, f"refused on {data}") for name in ("ablated", "added", "prompted") for data in DATA]
    total = sum(len(block.rows) for block in make_blocks(read))
    assert glance.left_out == total - len(told)


def test_the_terminal_prints_the_first_measures_and_names_the_others(large_run: Path) -> None:
    file = io.StringIO()
    print_summary(load_run(large_run), Console(file=file, width=80))
    text = file.getvalue()
    assert all(f"refused on {data}, n = 32" in text for data in DATA)
    assert "third on" not in text
    told = " ".join(text.split())
    assert "11 more tables in the report, of kl_divergence, crossed, second_matcher_of_phrases, third." in told


def test_names_break_where_their_parts_meet() -> None:
    assert breakable_parts("topics_removed[rank=8]") == ["topics_removed", "[rank=8]"]
    assert breakable_parts("harm_monitor.false_alarms on a/random-1") == [
        "harm_monitor.", "false_alarms on a", "/random-1",
    ]  # fmt: skip
    assert breakable_parts("blocks.23.resid_pre") == ["blocks.23.resid_pre"]
    assert breakable_parts("dose[coefficient=0.5]") == ["dose", "[coefficient=0.5]"]
    assert "".join(breakable_parts("a.b[c/d].e")) == "a.b[c/d].e"


@pytest.mark.parametrize("width", [68, 72, 76, 80, 84, 100])
def test_a_table_in_a_terminal_breaks_no_name(build: Any, width: int) -> None:
    results = study()
    names = {"ablated": "topics_removed[rank=8]", "added": "harmfulness_added"}
    for entry in (*results["conditions"], *results["records"]):
        for key in ("name", "of", "condition"):
            if entry.get(key):
                entry[key] = re.sub(r"^(ablated|added)", lambda found: names[found[0]], entry[key])
    file = io.StringIO()
    path = build(results, samples=[])
    print_summary(load_run(path), Console(file=file, width=width))
    lines = [line for line in file.getvalue().splitlines() if not line.startswith("Report: ")]
    assert all(cell_len(line) <= width for line in lines)
    starts = {line.split(" ")[0] for line in lines}
    assert "harmfulness_added" in starts
    assert {"topics_removed[rank=8]"} <= starts or {"topics_removed", "[rank=8]"} <= starts


def test_open_completions_are_of_all_data_sets() -> None:
    def group(data: str, prompt: str) -> SampleGroup:
        card = Sample(condition="baseline", data=data, prompt=prompt, completion="x", scores={}, example={})
        return SampleGroup(prompt, data, (card,))

    groups = [group("a", "1"), group("a", "2"), group("a", "3"), group("b", "4"), group("c", "5"), group("b", "6")]
    assert "".join(one.prompt for one in spread(groups)) == "145263"


def test_data_sets_come_in_the_order_in_which_they_are_first_measured() -> None:
    results = study()
    results["evaluators"] = [
        {"name": name, "aggregate": "proportion", "options": {"max_new_tokens": 8}} for name in ("x", "y")
    ]
    rates = [one for one in results["records"] if one["evaluator"] == "refused"]
    results["records"] = [{**one, "evaluator": "x"} for one in rates]
    results["records"] += [{**one, "evaluator": "y"} for one in rates if one["data"] == DATA[0]]
    assert [block.name for block in headline(blocks_of(results))] == [f"x on {data}" for data in DATA]


def side_effects_alone() -> dict[str, Any]:
    """A measure that is no behaviour, on more data sets than stand open, in more rows than a first table has."""
    results = study()
    results["evaluators"] = results["evaluators"][1:]
    own = [one for one in results["records"] if one["evaluator"] == "kl_divergence"]
    results["records"] = [{**one, "data": f"kind-{at}.test"} for one in own for at in range(FEW + 1)]
    results.update(searches=[], tradeoff=None)
    for number in range(3):
        added = next(one for one in results["conditions"] if one["name"] == "added")
        results["conditions"].append({**added, "name": f"more-{number}"})
        results["records"] += [
            {**one, "condition": f"more-{number}"} for one in results["records"] if one["condition"] == "added"
        ]
    return results


def test_a_run_of_side_effects_alone_shows_the_first_of_them(build: Any) -> None:
    path = build(side_effects_alone(), samples=[])
    page = write_report(path).read_text(encoding="utf-8")
    assert "Nothing was evaluated" not in page and "No condition was evaluated" not in page
    found = page.partition('<section id="found">')[2].partition("</section>")[0]
    unfolded = re.sub(r"<details>.*?</details>", "", found, flags=re.DOTALL)
    assert "kind-0.test" in unfolded and f"kind-{FEW}.test" not in unfolded and f"kind-{FEW}.test" in found
    assert 'aria-label="What each condition changes"' in page
    file = io.StringIO()
    print_summary(load_run(path), Console(file=file, width=80))
    assert "kl_divergence on kind-0.test" in file.getvalue()
    assert "Nothing was evaluated" not in file.getvalue()


def test_a_page_on_which_all_is_folded_does_not_say_that_nothing_was_evaluated(
    large_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.report.html.opened", lambda _: ())
    page = write_report(large_run).read_text(encoding="utf-8")
    assert "Nothing was evaluated" not in page and "No condition was evaluated" not in page


def test_a_run_without_measures_says_that_nothing_was_evaluated(build: Any) -> None:
    page = write_report(build({**study(), "records": [], "evaluators": [], "tradeoff": None})).read_text("utf-8")
    assert "Nothing was evaluated" in page and "No condition was evaluated" in page
