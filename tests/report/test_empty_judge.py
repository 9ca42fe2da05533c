"""A judge that answered nothing: it takes nobody's place, and nothing that it didn't say is told as a disagreement."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steerkit.artifacts.reading import Results
from steerkit.report import load_run, write_report
from steerkit.report.agreement import Compared, Pair
from steerkit.report.headline import FEW, headline
from steerkit.report.short import make_short
from steerkit.report.tables import make_blocks
from steerkit.report.terminal import print_summary
from tests.report.study import DATA, study

GONE: dict[str, Any] = {"value": None, "n": 0, "not_computed": 32, "difference": None, "ci_low": None, "ci_high": None}


def judged(role_only: bool = False) -> dict[str, Any]:
    """A study with more measures than stand open, whose judge was asked on every data set."""
    results = study()
    rates = [one for one in results["records"] if one["evaluator"] == "refused"]
    for name in ("second", "third"):
        results["evaluators"].append({**results["evaluators"][0], "name": name})
        results["records"] += [{**one, "evaluator": name} for one in rates]
    results["evaluators"].append({"name": "judged", "aggregate": "proportion", "unit": "fraction", "role": "judge"})
    results["records"] += [{**one, "evaluator": "judged", **({} if role_only else GONE)} for one in rates]
    return results


def blocks(results: dict[str, Any]) -> Any:
    return make_blocks(Results.model_validate(results))


def test_a_measured_rate_takes_its_place_everywhere(build: Any) -> None:
    results = judged()
    assert len(blocks(results)) > FEW
    assert [block.name for block in headline(blocks(judged(role_only=True)))] == [f"judged on {data}" for data in DATA]
    assert [block.name for block in headline(blocks(results))] == [f"refused on {data}" for data in DATA]
    file = io.StringIO()
    print_summary(load_run(build(results, samples=[])), Console(file=file, width=80))
    assert f"refused on {DATA[0]}, n = 32" in file.getvalue()
    assert f"judged on {DATA[0]}," not in file.getvalue() and " of kl_divergence, second, third, judged." in " ".join(
        file.getvalue().split()
    )


def test_the_first_page_says_that_it_was_not_judged_and_by_what_the_rest_goes() -> None:
    read = Results.model_validate(judged())
    short = make_short(read, make_blocks(read), [], {})
    assert (f"judged on {DATA[0]}, {DATA[1]} and {DATA[2]}", ": not judged.") in short.finding
    assert "judged gave no verdict: refused, second, third go by rules." in short.limits
    read = Results.model_validate(judged(role_only=True))
    assert not any("by rules" in limit for limit in make_short(read, make_blocks(read), [], {}).limits)


def test_a_judge_of_other_data_gives_way_to_whatever_was_measured() -> None:
    results = study()
    results["evaluators"] = [
        {**one, "aggregate": "mean", "options": {}} for one in results["evaluators"] if one["name"] == "refused"
    ]
    results["records"] = [{**one, "aggregate": "mean"} for one in results["records"] if one["evaluator"] == "refused"]
    results["evaluators"].append({"name": "judged", "aggregate": "proportion", "role": "judge"})
    results["records"] += [{**one, **GONE, "evaluator": "judged", "data": "other"} for one in results["records"]]
    assert [block.name for block in headline(blocks(results))][:3] == [f"refused on {data}" for data in DATA]
    alone = {**results, "records": [one for one in results["records"] if one["evaluator"] == "judged"]}
    assert [block.name for block in headline(blocks(alone))] == ["judged on other"]


def compared(name: str, n: int) -> Compared:
    return Compared(name, n, 0, 1 if n else 0, None, (), lacking=32 - n, absent="not judged")


@pytest.mark.parametrize(("n", "said"), [(0, 0), (32, 1)])
def test_only_verdicts_that_were_given_differ(n: int, said: int) -> None:
    read = Results.model_validate(study())
    names = ("baseline", "ablated", "added", "ablated/random-1", "added/random-1", "added/random-2")
    pairs = {data: [Pair("judged", "refused", data, tuple(compared(one, n) for one in names))] for data in DATA[:2]}
    pairs[DATA[2]] = [Pair("judged", "refused", DATA[2], (compared("baseline", 0),))]
    told = make_short(read, make_blocks(read), [], pairs).disagreements
    assert len(told) == said
    if told:
        # A data set without any verdict isn't among those on which they differ, and controls are no conditions.
        where = f"judged and refused on {DATA[0]} and {DATA[1]}: they differ on 6 of 192 and 6 of 192 examples under "
        assert told[0].startswith(f"{where}the baseline, two conditions and three random directions, most of them")


def test_random_directions_that_were_not_judged_were_run_all_the_same(build: Any) -> None:
    results = study()
    results["evaluators"][0]["role"] = "judge"
    for one in results["records"]:
        if one["evaluator"] == "refused" and "/random-" in one["condition"]:
            one.update(GONE)
    path: Path = build(results, samples=[])
    page = write_report(path).read_text("utf-8")
    first = page.partition('<section id="short">')[2].partition("</section>")[0]
    assert first.count('data-label="random"><span class="none">not judged</span>') == 2 * len(DATA)
    assert 'data-label="random"><span class="none">not run</span>' in first, "of the system prompt"
