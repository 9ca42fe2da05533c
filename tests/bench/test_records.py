"""What a study becomes: records, bars, a table, figures, a page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steerkit.bench.bars import BARS, EMBEDDED, idle_is_nothing, verdicts
from steerkit.bench.conditions import CASES, MODES
from steerkit.bench.measure import Pairs, Sample
from steerkit.bench.records import document, records_of, write
from steerkit.bench.study import Part, Study
from steerkit.bench.table import print_study
from steerkit.errors import SteerkitError
from tests.bench.conftest import made_pairs, made_study

KEYS = {"model", "case", "mode", "phase", "batch", "ratio", "ratio_low", "ratio_high", "extra_us", "n"}


def held(study: Study) -> dict[str, bool]:
    return {one.what: one.holds for one in verdicts(study)}


def test_a_record_for_every_case_and_mode_with_the_keys_that_programs_read(study: Study) -> None:
    records = records_of(study)
    assert {(one["case"], one["mode"]) for one in records} == {(case, mode) for case in CASES for mode in MODES}
    for one in records:
        assert set(one) >= KEYS
        assert (one["model"], one["phase"], one["batch"], one["n"], one["clock"]) == ("tiny", "decode", 1, 9, "cpu")
        assert one["ratio"] == pytest.approx(1.05) and one["ratio_low"] <= one["ratio"] <= one["ratio_high"]
        assert one["extra_us"] == pytest.approx(0.1 * 0.05 / 20 * 1e6), "per call, not per sample"


def test_the_file_holds_every_raw_sample_and_the_machine(study: Study) -> None:
    found: dict[str, Any] = json.loads(json.dumps(document([study])))
    (one,) = found["studies"]
    (part,) = one["parts"]
    assert part["cases"][0]["sample_seconds"]["cpu"]["case"] == pytest.approx([0.105] * 9)
    assert part["reference_against_itself"]["ratios"]["wall"]["ratio"] == 1.0
    assert {"cpu", "torch", "transformers", "date", "threads"} <= set(one["machine"])
    assert {"case": "idle", "mode": "hook", "peak_mb": 30.5, "extra_mb": 0.5} in one["peak_memory_mb"]
    assert one["idle_is_nothing"] is True and "median excess" in found["rule"]


def test_a_gpu_is_judged_by_wall_time() -> None:
    study = made_study({("add_all", "hook"): 1.0}, device="cuda:0")
    part = study.parts[0]
    slow = Pairs("x", tuple(Sample(1, 2) for _ in range(9)), tuple(Sample(9, 3) for _ in range(9)))
    parts = (Part(part.phase, 1, 1, {("add_all", "hook"): slow}, part.same, ()),)
    (record,) = records_of(Study(study.settings, "cuda:0", "bfloat16", study.machine, parts, (), None, None))
    assert (record["ratio"], record["clock"]) == (1.5, "wall")


def test_a_bar_is_held_by_the_lower_end_less_what_two_copies_of_the_reference_differ_by() -> None:
    ratios = {("add_all", "fold"): 1.03, ("ablate_all", "hook"): 1.09, ("rank8_ablate_all", "hook"): 9.0}
    found = held(made_study(ratios))
    assert found["add_all, fold, decode × 1"] is False and found["ablate_all, hook, decode × 1"] is True
    assert not any("rank8" in what for what in found), "which has no bar under hooks"
    assert held(made_study(ratios, same=1.015))["add_all, fold, decode × 1"] is True
    assert held(made_study({("ablate_all", "hook"): 1.09}, same=0.98))["ablate_all, hook, decode × 1"] is False


def test_bars_are_of_the_models_phases_and_batches_that_they_name() -> None:
    assert not any("decode" in what for what in held(made_study({("add_all", "fold"): 9.0}, model="other")))
    rows = {("rows", "hook"): 1.07}
    assert "rows, hook, decode × 1" not in held(made_study(rows))
    assert held(made_study(rows, batch=8))["rows, hook, decode × 8"] is False
    prefill = {(bar.case, bar.mode): bar.most for bar in BARS if bar.model == EMBEDDED}
    assert prefill == {("add_all", "hook"): 1.02, ("ablate_all", "hook"): 1.05}


def test_a_quick_look_is_held_to_no_bar(study: Study) -> None:
    quick = replace(study, settings=replace(study.settings, repeats=3), cold_start=None)
    assert verdicts(quick) == () and verdicts(study)
    short = replace(study.parts[0], phase="prefill", batch=2)
    of_short = replace(study, settings=replace(study.settings, prefill=(2, 32)), parts=(short,), attached=())
    assert [one.what for one in verdicts(of_short)] == ["first steered token, after plain"]


def test_attaching_and_cold_start_have_bars_too(study: Study) -> None:
    found = held(study)
    assert found["on and off, add_all, hook"] is True and found["on and off, add_all, fold"] is False
    assert found["first steered token, after plain"] is True


def test_nothing_is_claimed_of_an_idle_case_that_was_not_asked_for(study: Study) -> None:
    assert idle_is_nothing(study) is True
    assert idle_is_nothing(made_study({("add_all", "hook"): 1.0})) is None


def test_the_table_fits_a_terminal_of_80_columns(study: Study) -> None:
    out = io.StringIO()
    print_study(study, Console(file=out, width=80))
    text = out.getvalue()
    assert "…" not in text and "rank8_ablate_all" in text
    assert "1.01 MISSED" in text and "1.1 held" in text
    assert re.search(r"add_all +hook +1\.050 +1\.050-1\.050 +1\.050-1\.050 +\+250 µs +1\.03 MISSED", text)


def test_a_page_and_a_figure_stand_beside_the_file(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    files = write([study, made_study({("add_one", "hook"): 1.0}, model="<b>&x")], path)
    assert [file.name for file in files] == [
        "result.json", "result.html", "result-tiny-decode-1.svg", "result-b-x-decode-1.svg",
    ]  # fmt: skip
    page = (tmp_path / "deep" / "result.html").read_text()
    assert page.count("<svg") == 2 and "<b>" not in page and "http-equiv" in page
    assert "not measured" not in page and "MISSED" in page
    svg = (tmp_path / "deep" / "result-tiny-decode-1.svg").read_text()
    assert "rank8_ablate_all" in svg and "+250" in svg and "bar" in svg


def test_a_place_that_cant_be_written_is_said(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="--json"):
        write([study], tmp_path / "file" / "result.json")


def test_made_up_pairs_are_what_they_say() -> None:
    assert made_pairs("x", 2.0).own[0].cpu == 0.2
