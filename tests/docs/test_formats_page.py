"""The table of formats says of each what the plugin itself says."""

from __future__ import annotations

import pytest

from steerkit.api.hookspecs import FormatSpec
from steerkit.catalog import installed
from tests.docs.blocks import ROOT

FORMATS = [installed().get("format", name) for name in installed().names("format")]
ROWS = {
    cells[0].strip("`"): cells
    for line in (ROOT / "docs" / "formats.md").read_text("utf-8").splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
}


@pytest.mark.parametrize("spec", FORMATS, ids=lambda spec: spec.name)
def test_every_format_has_a_row_that_says_what_it_says(spec: FormatSpec) -> None:
    _, _, files, able, acts = ROWS[spec.name]
    assert able == ", ".join(word for word, true in (("reads", spec.reads), ("writes", spec.writes)) if true)
    assert acts == (spec.acts or "each file says it")
    assert spec.folder is ("folder" in files)
