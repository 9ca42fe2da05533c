"""Nothing of a page is cut off or has to be scrolled sideways at the widths of a phone, a small window and a desk."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from steerkit.report import write_report
from steerkit.report.compare import compare_runs
from steerkit.report.compare_page import render_comparison
from tests.report.conftest import separation
from tests.report.study import study

BROWSER: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE: Final = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const found = [];
  for (const one of document.querySelectorAll("body, body *:not(svg *)")) {
    if (one.scrollWidth > one.clientWidth + 1 && one.clientWidth && getComputedStyle(one).display !== "inline")
      found.push(`${one.tagName} ${one.getAttribute("aria-label") || one.textContent.trim().slice(0, 40)}`);
  }
  for (const figure of document.querySelectorAll("svg")) {
    const frame = figure.getBoundingClientRect();
    for (const text of figure.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push(`text ${text.textContent}`);
    }
  }
  parent.postMessage(JSON.stringify({width: innerWidth, found}), "*");
});
</script>"""
HOST: Final = """<pre id="said"></pre>
<script>
addEventListener("message", one => {{ document.getElementById("said").textContent += one.data + "\\n"; }});
</script>
<iframe src="report.html" style="width: {0}px; height: 900px; border: 0"></iframe>
<iframe src="compare.html" style="width: {0}px; height: 900px; border: 0"></iframe>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to lay the page out")


def suffixes() -> dict[str, Any]:
    """A study whose random suffixes are long texts without a space, and a head beside each of six groups."""
    read = {"n": 32, "cosines": [-0.24] * 31, "errors": [2.48e-4] * 31}
    moved = {**read, "change": [0.02] * 31, "change_errors": [0.04] * 31, "tokens": 42}
    drawn = r"tP=gDs{;aGEgJFs@2iuk<M@#eG6gH+F$(^u\r>4'doCAp9[:*[RVA6Ai]Ts%P"
    groups: list[dict[str, Any]] = [{"kind": "prompts", **read}, {"kind": "reference", **read}]
    for at in range(2):
        groups.append({"kind": "suffix", "suffix": " bluvo ranticle mopperen zild quavery tonk", **moved})
        groups.append({"kind": "random", "of": at, "suffix": drawn, **moved})
    numbers = [-0.3913] * len(groups)
    heads = [
        {"layer": 20 + at, "head": 5, "attribution": numbers, "errors": numbers, "instruction": numbers}
        for at in range(4)
    ]
    return {
        "name": "nonsense", "direction": "refusal", "site": "blocks.18.resid_pre", "prompts": "harmful.test",
        "reference": "harmless.test", "groups": groups, "heads": heads,
    }  # fmt: skip


@pytest.mark.parametrize("width", [360, 800, 1200])
def test_nothing_is_cut_off(build: Any, tmp_path: Path, width: int) -> None:
    results = study()
    results["suffixes"] = [suffixes()]
    results["separation"] = separation(direction="refusal")
    path: Path = build(results)
    results = json.loads(json.dumps(results).replace('"added', '"dose[coefficient=-0.25]'))
    small = [one for one in results["records"] if one["evaluator"] == "kl_divergence"]
    for one in small:  # many digits in every column
        one.update({key: value / 100 for key, value in one.items() if isinstance(value, float)})
    data = {one["data"]: {"sha256": one["data"]} for one in results["records"]}
    beside = [build(results, provenance={"data": data, "model": {"weights_sha256": n * 64}}) for n in "ef"]
    pages = {"report": write_report(path).read_text("utf-8"), "compare": render_comparison(compare_runs(beside))}
    for name, page in pages.items():
        # The page forbids scripts; the probe is one.
        page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)
        (tmp_path / f"{name}.html").write_text(page.replace("</head>", f"{PROBE}</head>"), "utf-8")
    (tmp_path / "host.html").write_text(HOST.format(width), "utf-8")
    asked = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={max(width, 600) + 40},1000",
        "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "host.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, env={**os.environ, "HOME": str(tmp_path)})
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said is not None and said[1], done.stderr[-2000:]
    assert html.unescape(said[1]).split() == [f'{{"width":{width},"found":[]}}'] * 2
