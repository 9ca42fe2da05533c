"""The result file: flat records for programs, and all that they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.artifacts.files import write_whole
from steerkit.bench.attaching import TIMES, Attaching
from steerkit.bench.bars import RULE, idle_is_nothing, verdicts
from steerkit.bench.measure import CLOCKS, Pairs, ratio_of, samples_as_json
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.bench.study import Part, Study

FORMAT = "steerkit-overhead/1"


def document(studies: Sequence[Study]) -> dict[str, Any]:
    """Everything, as JSON values: ``records`` of all studies, then each study whole."""
    return {
        "format": FORMAT,
        "records": [record for study in studies for record in records_of(study)],
        "rule": RULE,
        "studies": [study_as_json(study) for study in studies],
    }


def records_of(study: Study) -> list[dict[str, Any]]:
    """One record per case, mode, phase and batch, by the study's own clock."""
    return [
        _record(study, part, case, mode, pairs) for part in study.parts for (case, mode), pairs in part.pairs.items()
    ]


def _record(study: Study, part: Part, case: str, mode: str, pairs: Pairs) -> dict[str, Any]:
    found = ratio_of(pairs, study.clock, part.calls)
    return {
        "model": study.settings.model,
        "case": case,
        "mode": mode,
        "phase": part.phase,
        "batch": part.batch,
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "extra_us": found.extra_seconds * 1e6,
        "n": found.n,
        "ratio_min": found.least,
        "ratio_max": found.most,
        "aa_ratio": ratio_of(part.same, study.clock).ratio,
        "clock": study.clock,
        "device": study.device,
        "dtype": study.dtype,
        "compiled": study.settings.compiled,
    }


def study_as_json(study: Study) -> dict[str, Any]:
    """One study with every raw sample."""
    return {
        "model": study.settings.model,
        "device": study.device,
        "dtype": study.dtype,
        "clock": study.clock,
        "machine": dict(study.machine),
        "settings": asdict(study.settings),
        "parts": [_part(part) for part in study.parts],
        "attach_and_detach": [_attaching(one) for one in study.attached],
        "peak_memory_mb": _memory(study.memory),
        "cold_start_seconds": None if study.cold_start is None else asdict(study.cold_start),
        "idle_is_nothing": idle_is_nothing(study),
        "bars": [verdict.to_json() for verdict in verdicts(study)],
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "phase": part.phase,
        "batch": part.batch,
        "calls_per_sample": part.calls,
        "reference_against_itself": _comparison(part, part.same),
        "cases": [
            {"case": case, "mode": mode, **_comparison(part, pairs)} for (case, mode), pairs in part.pairs.items()
        ],
        "logits": [vars(one) for one in part.checked],
    }


def _comparison(part: Part, pairs: Pairs) -> dict[str, Any]:
    ratios = {}
    for clock in CLOCKS:
        values = asdict(ratio_of(pairs, clock, part.calls))
        ratios[clock] = {key: value for key, value in values.items() if key not in ("case", "clock")}
    return {"ratios": ratios, "sample_seconds": samples_as_json(pairs)}


def _attaching(one: Attaching) -> dict[str, Any]:
    return {
        "case": one.case,
        "mode": one.mode,
        "ms": one.seconds * 1e3,
        "decode_steps": one.steps,
        "times_per_sample": TIMES,
        "samples": {clock: [sample.of(clock) for sample in one.samples] for clock in CLOCKS},
    }


def _memory(memory: Mapping[tuple[str, str], float] | None) -> list[dict[str, Any]] | None:
    if memory is None:
        return None
    plain = memory["none", ""]
    return [
        {"case": case, "mode": mode, "peak_mb": peak, "extra_mb": peak - plain} for (case, mode), peak in memory.items()
    ]


def write(studies: Sequence[Study], path: Path) -> tuple[Path, ...]:
    """Write the JSON file, and beside it a page of the same name with its figures, and each figure.

    Returns:
        the files.

    Raises:
        SteerkitError: where they can't be written.
    """
    from steerkit.bench.page import render_page
    from steerkit.bench.plot import draw

    plots = draw(studies)
    files = {
        path: json.dumps(document(studies), indent=1) + "\n",
        path.with_suffix(".html"): render_page(studies, plots),
    }
    files |= {path.with_name(f"{path.stem}-{plot.file}"): plot.svg for plot in plots}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(name, content.encode())
    except OSError as error:
        raise SteerkitError(f"Can't write {path}: {error.strerror}. Name another place with --json.") from None
    return tuple(files)
