"""Section ``monitors``, evaluators of several values, and what conditions can't touch, told before a run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import PluginError, RecipeError
from steerkit.plan import plan_recipe
from steerkit.recipe import recipe_from_mapping
from steerkit.recipe.document import read_document
from steerkit_architectures import llama
from tests.plan.conftest import RECIPE, Planner, Problems

MONITORS = RECIPE + "monitors:\n  harm: {direction: warmth, above: 3.0, positions: generated}\n"
AUROC = "evaluate:\n  - monitor_auroc: {data: probe.test, monitor: harm, positive: 1}\n"


def with_auroc(monitors: str = MONITORS) -> str:
    return monitors.replace("evaluate:\n", AUROC)


def test_a_monitor_is_resolved_and_shown(plan: Planner) -> None:
    found = plan(with_auroc())
    (monitor,) = found.monitors
    assert (monitor.name, monitor.threshold, monitor.side) == ("harm", 3.0, "above")
    expected = {"name": "harm", "direction": "warmth", "above": 3.0, "sites": None, "positions": "generated"}
    assert found.to_json()["monitors"] == [expected]
    assert recipe_from_mapping(read_document(found.report.recipe).value).recipe == found.recipe
    assert "monitors" not in read_document(plan().report.recipe).value, "a recipe without monitors is written as ever"


@pytest.mark.parametrize("positions", ["generated", "completion[:2]"])
def test_a_threshold_is_set_at_tokens_that_prompts_have(plan: Planner, problems: Problems, positions: str) -> None:
    set_by = "calibrate: {data: cold.train, false_alarms: 10}"
    text = MONITORS.replace("above: 3.0", set_by).replace("positions: generated}\n", f'positions: "{positions}"}}\n')
    ((_, where, message),) = problems(text)
    assert where == "monitors.harm.positions"
    assert f"a threshold is set by readings of prompts, and {positions} are tokens behind them" in message
    assert plan(text.replace(f'"{positions}"', "all")).monitors[0].calibration is not None


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("{data: cold.train, false_alarms: 1000}", "monitors.harm.calibrate.false_alarms"),
        ("{data: cold.train, false_alarm: 10}", "monitors.harm.calibrate.false_alarm"),
        ("{false_alarms: 10}", "monitors.harm.calibrate.data"),
        ("10", "monitors.harm.calibrate"),
    ],
)
def test_a_broken_calibration_is_one_problem(problems: Problems, given: str, where: str) -> None:
    """That there is then no threshold follows from it."""
    found = problems(MONITORS.replace("above: 3.0, positions: generated", f"calibrate: {given}"))
    assert [one for _, one, _ in found] == [where]


def test_prompts_that_set_a_threshold_are_read_as_the_model_reads_prompts(problems: Problems) -> None:
    """A conversation of several turns has no text without a template, whoever reads it."""
    talk = "[{role: user, content: hi}, {role: assistant, content: ho}, {role: user, content: ha}]"
    text = MONITORS.replace("above: 3.0, positions: generated", "calibrate: {data: talk, false_alarms: 10}")
    text = text.replace("data:\n", f"data:\n  talk: {{inline: [{{turns: {talk}}}], messages: turns}}\n", 1)
    ((_, where, message),) = problems(text, "model.chat_template=none")
    assert where == "data.talk" and "a conversation of several turns" in message


def test_sites_may_be_one_text(plan: Planner) -> None:
    found = plan(MONITORS.replace("above: 3.0", "below: -1, sites: blocks.0.resid_post"))
    assert [str(site) for site in found.monitors[0].sites or ()] == ["blocks.0.resid_post"]
    assert found.monitors[0].side == "below"


def test_mistakes_in_monitors_are_told_with_their_lines(problems: Problems) -> None:
    for change, where, message in (
        (("direction: warmth, above", "direction: warm, above"), "monitors.harm.direction", "Did you mean 'warmth'"),
        (("above: 3.0, ", ""), "monitors.harm", "a number as above or as below"),
        (("above: 3.0", "above: 3.0, below: 1"), "monitors.harm", "not both"),
        (("positions: generated", "positions: from_token(x)"), "monitors.harm.positions", "can be steered, not read"),
        (("above: 3.0", "above: 3.0, sites: []"), "monitors.harm.sites", "expected at least one site, as in ["),
        (("above: 3.0", "above: 3.0, sites: [blocks.0.resid]"), "monitors.harm.sites[0]", "Unknown stream"),
    ):
        found = problems(MONITORS.replace(*change))
        assert any(key.startswith(where.split("[")[0]) and message in text for _, key, text in found), (change, found)


def test_an_evaluator_finds_its_monitor(problems: Problems, plan: Planner) -> None:
    found = problems(with_auroc(MONITORS.replace("harm:", "harms:")))
    assert any("unknown monitor 'harm'. Did you mean 'harms'" in text for _, _, text in found)
    quiet = plan(MONITORS.replace("report: {samples: {data: probe.test, n: 2, max_new_tokens: 7}}", ""))
    assert "Monitor 'harm' is read by no evaluator, and there are no report.samples to show it." in quiet.notes


def test_names_of_several_values_may_not_clash(problems: Problems) -> None:
    twice = AUROC + "  - monitor_auroc: {data: probe.test, monitor: harm, positive: 1, name: crossed}\n"
    found = problems(MONITORS.replace("evaluate:\n", twice))
    assert any("monitor_auroc adds 'crossed' to the results" in text for _, _, text in found)


def test_values_are_called_by_the_evaluators_name(plan: Planner) -> None:
    found = plan(with_auroc().replace("positive: 1}", "positive: 1, name: mine}"))
    per_example = ["crossed", "peak_reading", "caught", "false_alarms"]
    assert list(found.evaluations[0].values) == ["mine", *(f"mine.{name}" for name in per_example)]
    assert found.evaluations[0].labels == {name: f"mine.{name}" for name in per_example}
    assert list(plan(with_auroc()).evaluations[0].values) == ["monitor_auroc", *per_example]


def test_a_condition_that_edits_only_what_nobody_reads_is_told(plan: Planner) -> None:
    late = RECIPE.replace("coefficient: 4.0}", 'coefficient: 4.0, positions: "generated[:3]"}')
    (note,) = [note for note in plan(late).notes if "can't differ" in note]
    assert note.startswith("Conditions warmer, alone edit generated tokens only, and refusal_score reads")
    (usual,) = [note for note in plan().notes if "can't differ" in note]
    assert usual.startswith("Condition alone edits generated tokens only")
    written = late.replace(
        "- refusal_score: {data: [probe.test, warm.test], tokens: [x]}", "- refusal_rate: {data: probe.test}"
    )
    assert not [note for note in plan(written).notes if "can't differ" in note]


def test_a_condition_that_does_nothing_is_told(plan: Planner) -> None:
    found = plan(RECIPE.replace("[-8, 0.5]", "[-8, 0]"))
    assert "Condition dose[coefficient=0] does nothing with these options, so it is the baseline." in found.notes
    assert not [note for note in plan().notes if "does nothing" in note]


def test_of_a_direction_at_several_sites_a_monitor_says_which_are_read(plan: Planner, problems: Problems) -> None:
    several = MONITORS.replace("site: blocks.1.resid_pre", 'site: "blocks.*.resid_pre"').replace(
        "    - ablate", "    - add"
    )
    several = several.replace(
        "{ablate: {direction: warmth, sites: ", "{ablate: {direction: warmth, at: blocks.1.resid_pre, sites: "
    )
    found = problems(several)
    assert any(where == "monitors.harm" and "say which ones are read, sites: [" in text for _, where, text in found)
    wrong = problems(several.replace("above: 3.0", "above: 3.0, sites: blocks.0.resid_post"))
    assert any("has no vectors at blocks.0.resid_post" in text for _, _, text in wrong)
    (monitor,) = plan(several.replace("above: 3.0", 'above: 3.0, sites: "blocks.*.resid_pre"')).monitors
    assert monitor.to_json()["sites"] == ["blocks.*.resid_pre"]


def test_a_system_prompt_counts_as_acting_and_is_not_seen_by_given_texts(plan: Planner) -> None:
    changed = RECIPE.replace(
        "conditions:\n",
        "conditions:\n"
        "  idle: {system_prompt: Be warm., interventions: [{add: {direction: warmth, coefficient: 0.0}}]}\n"
        "  asked: {system_prompt: Be warm., interventions: []}\n"
        "  late: {system_prompt: Be warm., interventions: [{add: {direction: warmth, positions: generated}}]}\n",
    ).replace("evaluate:\n", "evaluate:\n  - cross_entropy: {data: probe.test}\n")
    notes = plan(changed).notes
    assert not any("idle" in note or "late" in note for note in notes)
    expected = (
        "Condition asked has a system prompt and no intervention, and cross_entropy reads given texts as they are, so "
        "it can't differ from the baseline there."
    )
    assert expected in notes


def test_an_unknown_label_is_told_with_those_that_there_are(plan: Planner, problems: Problems, tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "kind": kind} for n, kind in enumerate(("harm", "safe", "harm", "safe"))]
    (tmp_path / "kinds.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    kinds = "kinds: {file: kinds.jsonl, label: kind}"
    more = f"  {kinds}\n  harmless: {{file: kinds.jsonl, label: kind, where: {{kind: safe}}}}"
    labelled = with_auroc().replace("probe.test, monitor: harm, positive: 1", "kinds, monitor: harm, positive: harm")
    labelled = labelled.replace("data:\n", f"data:\n{more}\n", 1)
    assert not [note for note in plan(labelled).notes if "no value" in note]
    ((line, where, message),) = problems(labelled.replace("positive: harm", "positive: harmful"))
    assert (where, line) == ("evaluate.0.monitor_auroc.positive", labelled[: labelled.index("auroc")].count("\n") + 1)
    assert message == 'no example has label "harmful". Did you mean "harm"? Available: "harm", "safe"'
    ((_, where, message),) = problems(labelled.replace("positive: harm", "positive: harm, field: topic"))
    assert where == "evaluate.0.monitor_auroc.field" and "no example has a field 'topic'" in message
    # One of several data sets without the label is a result, and said beforehand.
    both = labelled.replace("data: kinds, monitor", "data: [kinds, harmless], monitor")
    (note,) = [note for note in plan(both).notes if "no value" in note]
    assert note == 'monitor_auroc has no value on harmless: no example has label "harm". Available: "safe".'
    (note,) = [note for note in plan(with_auroc()).notes if "no value" in note]
    assert note == "monitor_auroc has no value on probe.test: no example has a label, so none has 1 there."


def test_data_that_cannot_be_read_have_one_problem(problems: Problems) -> None:
    broken = with_auroc().replace("inline: [p1, p2, p3]", "file: missing.jsonl")
    ((_, where, _),) = problems(broken)
    assert where == "data.probe"


ODD = """
from steerkit.api.hookspecs import EvaluatorSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class How(Options):
    fails: bool = False


def lacks(options, examples):
    return len(examples) / 0 if options.fails else "a sentence"


@hookimpl
def steerkit_evaluators():
    return [EvaluatorSpec("odd", "O.", "nowhere:A", How, lacks=lacks)]
"""


def test_an_evaluator_that_says_nonsense_of_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_lacks_of_a_test.py").write_text(ODD, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog = Catalog.from_modules(importlib.import_module("odd_lacks_of_a_test"), llama)
    monkeypatch.delitem(sys.modules, "odd_lacks_of_a_test")

    def plan_with(option: str) -> None:
        text = 'name: odd\nmodel: {source: "tiny-random:llama"}\ndata: {texts: {inline: [a, b]}}\n'
        (tmp_path / "odd.yaml").write_text(f"{text}evaluate: [{{odd: {{data: texts, fails: {option}}}}}]\n", "utf-8")
        plan_recipe(tmp_path / "odd.yaml", (), catalog)

    with pytest.raises(RecipeError, match="odd failed to say what examples lack: ZeroDivisionError"):
        plan_with("true")
    with pytest.raises(PluginError, match=r"Evaluator 'odd': `lacks` returned str, not steerkit\.api\.hookspecs\.Lack"):
        plan_with("false")
