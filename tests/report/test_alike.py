"""Findings that repeat each other stand as a list by verdict, each sentence of them folded below."""

from __future__ import annotations

import re
from typing import Any

from steerkit.artifacts.reading import Results
from steerkit.report import write_report
from steerkit.report.findings import make_findings
from steerkit.report.tables import make_blocks
from tests.report.study import DATA, study


def section(page: str) -> str:
    return page.partition('<section id="found">')[2].partition("</section>")[0]


def plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", text).split())


def test_conditions_of_one_verdict_stand_together_with_their_values(results: dict[str, Any]) -> None:
    for found in make_findings(make_blocks(Results.model_validate(study()))):
        told = [(name, value) for group in found.alike for value, names in group.values for name in names]
        rows = {row.condition.name: row for row in found.block.rows}
        # Every finding is in one group, with its own number.
        assert sorted(name for name, _ in told) == sorted(one.subject for one in found.findings)
        for name, value in told:
            assert value.startswith(found.block.format.number(rows[name].value))
        by_name = {one.subject: (one.verdict, one.label) for one in found.findings}
        assert all(
            by_name[name] == (group.verdict, group.label)
            for group in found.alike for _, names in group.values for name in names
        )  # fmt: skip
        verdicts = [group.verdict for group in found.alike]
        assert len({(group.verdict, group.label) for group in found.alike}) == len(verdicts)
        assert verdicts == sorted(verdicts, key=lambda one: one != "beyond"), "what lies beyond its controls leads"
    (sweeps, *_) = make_findings(make_blocks(Results.model_validate(results)))
    assert any(" to " in value for group in sweeps.alike for value, _ in group.values)


def test_of_many_findings_the_sentences_are_folded_and_none_is_lost(build: Any) -> None:
    page = section(write_report(build(study(), samples=[])).read_text("utf-8"))
    findings = [one for found in make_findings(make_blocks(Results.model_validate(study()))) for one in found.findings]
    assert all(" ".join(one.text.split()) in plain(page) for one in findings)
    stands = plain(re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL))
    assert not any(one.text in stands for one in findings)
    assert all(f"refused on {data}" in stands for data in DATA) and "outside control range" in stands
    # What an evaluator measures is said once, however many data sets it has.
    assert plain(page).count("Fraction of completions that refuse.") == 1


def test_few_findings_stand_as_sentences(build: Any, results: dict[str, Any]) -> None:
    page = section(write_report(build(results)).read_text("utf-8"))
    assert "in sentences" not in page and '<ul class="findings">' in page
