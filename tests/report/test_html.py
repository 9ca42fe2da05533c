"""The page: holds the numbers, claims nothing that wasn't measured, runs nothing, fetches nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.provenance import Provenance
from steerkit.artifacts.reading import DirectionEntry, InterventionEntry
from steerkit.report import write_report
from steerkit.report.describe import command_line, describe_direction, describe_intervention, flatten

VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the machine-readable numbers."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.numbers: set[float] = set()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.numbers.add(float(dict(attrs)["value"] or "nan"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            # A place where a name may be broken is no space.
            if self.tags[-1][0] == "wbr" and self.words:
                self.words[-1] += data
            else:
                self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def odd_page(odd_run: Path) -> Page:
    return Page((odd_run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain_page(plain_run: Path) -> Page:
    return Page((plain_run / "report.html").read_text(encoding="utf-8"))


def page_of(path: Path) -> Page:
    return Page(write_report(path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["odd_page", "plain_page"])
def test_nothing_runs_and_nothing_is_fetched(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "b", "image"}
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
        for key in ("src", "href", "action", "srcset", "data", "poster"):
            assert (attributes.get(key) or "#").startswith("#"), (tag, attributes)
        style = attributes.get("style") or ""
        assert "url(" not in style.replace("url(#", "") and "@import" not in style
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_addresses_are_names_of_namespaces_only(odd_run: Path) -> None:
    source = (odd_run / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"' ]+", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(odd_page: Page) -> None:
    ids = [attributes["id"] for _, attributes in odd_page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(a.get("href") or "").removeprefix("#") for tag, a in odd_page.tags if tag in ("a", "use")}
    assert links and links <= set(ids)


@pytest.mark.parametrize("name", ["odd", "plain"])
def test_every_value_is_on_the_page(name: str, request: pytest.FixtureRequest) -> None:
    page, run = request.getfixturevalue(f"{name}_page"), request.getfixturevalue(f"{name}_run")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    kinds = {condition["name"]: condition["kind"] for condition in results["conditions"]}
    values = {r["value"] for r in results["records"] if r["value"] is not None and kinds[r["condition"]] != "control"}
    values |= {entry["auroc"] for entry in results["separation"] if entry["auroc"] is not None}
    assert len(values) > 6 and values <= page.numbers


def test_intervals_and_controls_are_on_the_page(plain_page: Page, plain_run: Path) -> None:
    results = json.loads((plain_run / "results.json").read_text(encoding="utf-8"))
    text = plain_page.text
    warmer = next(record for record in results["records"] if record["condition"] == "warmer")
    controls = [r["value"] for r in results["records"] if r["condition"].startswith("warmer/random-")]
    numbers = [warmer["value"], warmer["ci_low"], warmer["ci_high"], sum(controls) / 5, min(controls), max(controls)]
    value, low, high, mean, least, most = (f"{number:.2f}".replace("-", "−") for number in numbers)
    assert f"warmer {value} {low} to {high} {mean} {least} to {most}" in text
    assert f"to {value} nats (95 % interval {low} to {high})" in text


def test_what_was_asked(plain_page: Page) -> None:
    text = plain_page.text
    assert "smollm2-135m-instruct, 30 layers, width 576, float32 (read by the llama adapter)" in text
    assert (
        "warmth : mean_difference: warm.train minus cold.train, read at blocks.15.resid_pre, position −1, norm 12.3"
        in text
    )
    assert "warm.train (32), warm.test (16)" in text
    assert "the same interventions with 5 random directions of the same norm" in text
    assert "range of five others with probability 2 in 6" in text
    assert "add warmth, coefficient 4, at blocks.15.resid_pre, positions all" in text
    assert "Held-out prompts: the direction was not estimated from them." in text
    assert "steerkit run 'my recipe.yaml'" in text and "/somewhere" not in text.split("Everything that was recorded")[0]
    assert "steerkit-torch 0.1.0, torch 2.13.0" in text and "1 min 23 s" in text
    assert "4be1d6f04be1 with uncommitted changes" in text and "90ab12cd90ab" in text
    assert "Everything that the recipe asks for was measured." in text


def test_nulls_are_said_to_be_unmeasured_and_are_not_zero(build: Any, results: dict[str, Any], make: Any) -> None:
    results["conditions"] = [make.condition("baseline", "baseline"), make.condition("a"), make.condition("b")]
    results["records"] = [make.record("baseline", 5.0), make.record("a", None, n=0)]
    results["separation"] = [{**make.separation(1)[0], "auroc": None, "d_prime": None, "norm": None}]
    page = page_of(build(results, samples=[]))
    assert page.numbers == {5.0}
    assert "a was not measured." in page.text and "b was not measured." in page.text
    assert "choice_logit_difference on probe.test: a, b were not measured." in page.text
    assert "no control was run" not in page.text.split("What was not measured")[1]
    assert "There are no completions in this run." in page.text
    assert not re.search(r"(?<![\d.])0\.00?(?![\d])", page.text.split("Conditions side by side")[1])


def test_reasons_of_the_runner_are_not_said_twice(build: Any, results: dict[str, Any]) -> None:
    results["conditions"] = [c for c in results["conditions"] if c["kind"] != "control"]
    results["records"] = [r for r in results["records"] if "random" not in r["condition"]]
    results["separation"] = []
    results["notes"] = ["Random controls are switched off.", "Separation by layer is switched off."]
    section = page_of(build(results)).text.split("What was not measured")[1]
    assert section.count("ontrol") == 1 and section.count("eparation") == 1
    results["notes"] = []
    section = page_of(build(results)).text.split("What was not measured")[1]
    assert "no control was run for warmer, cooler, dose[coefficient=-8] and 3 more." in section
    assert "Separation of the classes by layer was not measured." in section


def test_everything_is_escaped(odd_page: Page, odd_run: Path) -> None:
    source = (odd_run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source and "onerror=alert(1)&gt;" in source and "<b>" not in source
    assert "<script>alert('x')</script> & <img src=x onerror=alert(1)>" in odd_page.text
    assert "</p><p>second" in odd_page.text and "Share of <refusals>." in odd_page.text


def test_completions_keep_their_lines_and_their_way_of_reading(odd_page: Page) -> None:
    words = "".join(odd_page.words)
    assert "שלום עולם\n\nمرحبا بالعالم 🙂\ttab\ufffdnul\ufffdlone" in words
    blocks = [attributes for tag, attributes in odd_page.tags if "text" in (attributes.get("class") or "").split()]
    assert blocks and all(attributes.get("dir") == "auto" for attributes in blocks)
    assert "(empty)" in odd_page.text and "from a condition that is not listed" in odd_page.text
    assert "scored only" not in odd_page.text
    assert "Seven more prompts" in odd_page.text


def test_completions_are_in_the_order_of_the_conditions(build: Any, make: Any) -> None:
    page = page_of(build(samples=list(reversed(make.base_samples()))))
    part = page.text.split("Completions side by side")[1]
    assert part.index("baseline I'd suggest") < part.index("warmer Oh, I'm") < part.index("cooler The material")


def test_no_evaluation_at_all(build: Any, results: dict[str, Any]) -> None:
    results.update(
        records=[], evaluators=[], separation=[], conditions=results["conditions"][:1], directions=[], data={}
    )
    page = page_of(build(results, samples=[], provenance={}))
    assert "Nothing was evaluated in this run." in page.text
    assert "This run directory holds no provenance." in page.text


def test_the_same_bytes_in_another_process(plain_run: Path) -> None:
    before = {path.name: path.read_bytes() for path in [plain_run / "report.html", *(plain_run / "plots").iterdir()]}
    code = f"from steerkit.report import write_report; write_report({str(plain_run)!r})"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PYTHONHASHSEED": "17"})
    after = {path.name: path.read_bytes() for path in [plain_run / "report.html", *(plain_run / "plots").iterdir()]}
    assert before == after


def test_directions_in_words() -> None:
    ranked = DirectionEntry(name="d", site="embed", positions="last", rank=2, norms=(1.0, None))
    assert (
        describe_direction(ranked)
        == "read from a file, read at embed, positions last, rank 2, norms 1.00, not measured"
    )


def test_interventions_in_words() -> None:
    sites = tuple(f"blocks.{k}.attn_out" for k in range(4))
    entry = InterventionEntry(name="ablate", direction="d", sites=sites, options={"a": None, "b": True, "c": [1, 2]})
    assert describe_intervention(entry) == (
        "ablate d, b true, c [1, 2], at blocks.0.attn_out, blocks.1.attn_out and 2 more sites"
    )


def test_schedules_and_gates_in_words() -> None:
    prompt = {"direction": "harm", "above": 3.0, "site": "blocks.4.resid_pre", "at": "prompt", "positions": "last"}
    entry = InterventionEntry(name="add", schedule="linear(1, 0, 8)", gate={**prompt, "prepass": True})
    assert describe_intervention(entry) == (
        "add, times linear(1, 0, 8), where the prompt's positions last projects on harm above 3.0 at "
        "blocks.4.resid_pre in an extra pass"
    )
    token = {"direction": "harm", "below": -1, "site": "embed", "at": "token"}
    assert describe_intervention(InterventionEntry(name="add", gate=token)) == (
        "add, where the token projects on harm below -1 at embed"
    )


def test_provenance_in_words() -> None:
    nested = {
        "a": {"b": None, "c": []},
        "argv": ["x", "y z"],
        "p": [{"kind": "k", "version": None}],
        "t": False,
        "e": {},
    }
    assert list(flatten(nested)) == [
        ("a.b", "not known"), ("a.c", "none"), ("argv", "x 'y z'"), ("p", "k"), ("t", "false"), ("e", "{}"),
    ]  # fmt: skip
    assert command_line(Provenance()) is None


@pytest.mark.parametrize("controls", [True, False])
def test_a_name_may_be_broken_where_its_parts_meet_wherever_it_stands(
    build: Any, results: dict[str, Any], controls: bool
) -> None:
    """In headings, sentences, notes and tables; what is copied as it is, and completions, are left alone."""
    if not controls:  # and then the notes say of which conditions
        results["conditions"] = [c for c in results["conditions"] if c["kind"] != "control"]
        results["records"] = [r for r in results["records"] if "random" not in r["condition"]]
    source = write_report(build(results)).read_text(encoding="utf-8")
    for left in (r"<style>.*?</style>", r"<pre.*?</pre>", r"<svg.*?</svg>", r"<title>.*?</title>", r"<(?!wbr)[^>]*>"):
        source = re.sub(left, "", source, flags=re.DOTALL)
    assert "dose<wbr>[coefficient=-8]" in source
    assert "dose[coefficient" not in source
