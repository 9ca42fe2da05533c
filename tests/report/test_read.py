"""Reading a run directory: what is there, and what is said when it isn't."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.reading import SeparationEntry
from steerkit.errors import ArtifactError
from steerkit.report import load_run


def test_reads_every_part(build: Any) -> None:
    run = load_run(build())
    assert run.title == "Warmth in a small chat model"
    assert run.results.model.n_layers == 30
    assert run.results.directions[0].norms == (12.3456,)
    assert run.conditions["dose[coefficient=-8]"].swept == {"coefficient": -8.0}
    assert run.results.records[1].value == pytest.approx(1.1313, abs=1e-3)
    assert len(run.samples) == 9
    assert run.provenance["versions"]["torch"] == "2.13.0"
    assert run.timings["seconds"]["directions"] == 70.25
    assert run.recipe == "name: quickstart\nseed: 42\n"


def test_title_falls_back_to_the_name(build: Any, results: dict[str, Any]) -> None:
    results["title"] = None
    assert load_run(build(results)).title == "quickstart"


def test_optional_files_may_be_absent(build: Any) -> None:
    path = build(samples=None)
    for name in ("provenance.json", "timings.json", "recipe.yaml"):
        (path / name).unlink()
    run = load_run(path)
    assert (run.samples, run.provenance, run.timings, run.recipe) == ((), {}, {}, None)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "null"])
def test_a_number_that_is_not_finite_was_not_measured(build: Any, text: str) -> None:
    path = build()
    file = path / "results.json"
    changed = re.sub(r'"value": -1\.2043\b', f'"value": {text}', file.read_text(encoding="utf-8"), count=1)
    file.write_text(changed, encoding="utf-8")
    assert load_run(path).results.records[0].value is None


def test_keys_of_a_later_version_are_ignored(build: Any, results: dict[str, Any]) -> None:
    results["later"] = 1
    results["records"][0]["later"] = 1
    assert load_run(build(results)).results.records[0].value == -1.2043


def test_missing_directory_and_missing_results(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a directory"):
        load_run(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"no results\.json.*did not finish"):
        load_run(tmp_path)


def test_another_schema_version(build: Any, results: dict[str, Any]) -> None:
    results["schema_version"] = 2
    with pytest.raises(ArtifactError, match=r"schema_version is 2, and this steerkit reads 1.*run the recipe again"):
        load_run(build(results))


def test_damaged_files_name_the_file_and_the_place(build: Any, results: dict[str, Any]) -> None:
    path = build()
    (path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"results\.json is damaged.*Run the recipe again"):
        load_run(path)
    (path / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ArtifactError, match="expected a JSON object, found list"):
        load_run(path)
    (path / "results.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ArtifactError, match="byte 10 is not UTF-8"):
        load_run(path)
    results["records"][3]["value"] = "high"
    with pytest.raises(ArtifactError, match=r"records\.3\.value"):
        load_run(build(results))


def test_a_damaged_sample_names_its_line(build: Any) -> None:
    path = build()
    with (path / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "half a li')
    with pytest.raises(ArtifactError, match=r"samples\.jsonl, line 10 is damaged"):
        load_run(path)


def test_a_line_separator_inside_a_completion_does_not_end_the_line(build: Any) -> None:
    path = build(samples=[])
    line = {"prompt": "a", "condition": "baseline", "completion": "one\u2028two"}
    (path / "samples.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_run(path).samples[0].completion == "one\u2028two"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["conditions"].append(r["conditions"][1]), "'warmer' is there twice"),
        (lambda r: r["conditions"][2].update(of="gone"), "belongs to 'gone', which is no condition"),
        (lambda r: r["records"][0].update(condition="gone"), "names the condition 'gone'"),
        (lambda r: r["records"].append(r["records"][0]), "two records for 'baseline'"),
    ],
)
def test_contradictions_are_errors(build: Any, results: dict[str, Any], change: Any, message: str) -> None:
    change(results)
    with pytest.raises(ArtifactError, match=message):
        load_run(build(results))


@pytest.mark.parametrize(
    ("site", "layer", "stream"),
    [
        ("blocks.3.resid_pre", 3, "resid_pre"),
        ("blocks.3.resid_post", 4, "resid_pre"),
        ("blocks.3.resid_post", 3, "resid_post"),
        ("blocks.3.mlp_out", 3, "mlp_out"),
        ("embed", -1, "embed"),
    ],
)
def test_what_leaves_the_last_block_continues_the_curve(site: str, layer: int, stream: str) -> None:
    assert SeparationEntry(direction="d", site=site, layer=layer).stream == stream


@pytest.mark.parametrize(("number", "shown"), [("1e308", "1e+308"), ("-1e308", "-1e+308"), ("1" + "0" * 400, "digits")])
@pytest.mark.parametrize("key", ["ci_low", "value"])
def test_a_number_that_nothing_measures_is_damage_and_no_traceback(
    build: Any, number: str, shown: str, key: str
) -> None:
    path = build()
    file = path / "results.json"
    changed = re.sub(rf'"{key}": -?[0-9.]+', f'"{key}": {number}', file.read_text(encoding="utf-8"), count=1)
    file.write_text(changed, encoding="utf-8")
    with pytest.raises(ArtifactError, match=rf"results.json is damaged: records.0.{key} is .*{re.escape(shown)}"):
        load_run(path)
