"""The page of documentation that the table becomes, in short."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.decoders.row import Row
from steerkit.errors import counted
from steerkit.sources import CAUSAL_TYPES, TINY_VARIANTS

PAGE: Final = Path(__file__).parents[2] / "docs" / "decoders.md"
BEGIN: Final = "<!-- what follows is written by `python -m benchmarks.decoders` -->\n"


def write_page(rows: Iterable[Row]) -> None:
    """Write what is generated of the page behind what is written by hand."""
    by_hand = PAGE.read_text("utf-8").partition(BEGIN)[0]
    PAGE.write_text(by_hand + BEGIN + generated(rows), "utf-8")


def generated(rows: Iterable[Row]) -> str:
    """The generated part of the page."""
    found = sorted(rows, key=lambda row: row.type)
    types = [row for row in found if row.type in CAUSAL_TYPES]
    variants = [row for row in found if row.type in TINY_VARIANTS]
    return "\n".join([*_counts(types), *_sections(types), *_variants(variants)]) + "\n"


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    yield f"\n## {counted(len(rows), 'type')}\n"
    yield "| status | types | what there is |"
    yield "|---|---|---|"
    for status, meaning in (
        ("full", "every contribution is a site, and ablation at every writer is exact"),
        ("ends only", "`embed`, `resid_pre` and `resid_post` are sites, contributions aren't"),
        ("refused", "nothing: the model is refused with the reason"),
        ("not run", "nothing was measured, for the reason below"),
    ):
        yield f"| {status} | {sum(row.status == status for row in rows)} | {meaning} |"
    kept = [row for row in rows if row.status in ("full", "ends only")]
    clean, in_part = sum(row.keeps_all for row in kept), sum(not row.broken and bool(row.not_asked) for row in kept)
    yield (
        f"\nOf the {len(kept)} with sites, {clean} keep every promise of `ArchitectureSuite`, and {in_part} more all "
        "but those that rest on what they don't do without steering either."
    )


def _sections(rows: Sequence[Row]) -> Iterator[str]:
    full = [row for row in rows if row.status == "full"]
    yield "\n## Full\n"
    yield _named(row for row in full)
    yield from _grouped("What the layouts of some of them leave out:", "left out", _each(full, lambda row: row.absent))
    yield from _grouped("Experts:", "held, and what covers them", _each(full, lambda row: (row.experts,)))
    ends = [row for row in rows if row.status == "ends only"]
    yield "\n## Ends of blocks alone"
    yield from _grouped("", "why", _each(ends, lambda row: (_anywhere(row.detail),)))
    yield "\n## Refused and not run"
    refused = [row for row in rows if row.status in ("refused", "not run")]
    yield from _grouped("", "why", _each(refused, lambda row: (f"{row.cause}: {_anywhere(row.detail)}",)))
    kept = [row for row in rows if row.status in ("full", "ends only")]
    yield "\n## What doesn't hold on some of them"
    says = {"causal": "a later token changes what is before it", "left_padding": "padding on the left changes a prompt"}
    says["cached"] = "a cached step differs from an uncached one"
    failing = _each(kept, lambda row: (says.get(one, one) for one, passed in row.behaviours.items() if not passed))
    yield from _grouped("As the self-test sees them behave, without steering:", "behaviour", failing)
    broken = _each(kept, lambda row: (f"`{name}`" for name in row.broken))
    yield from _grouped("Promises of the suite that fail:", "promise", broken)
    varying = _each(kept, lambda row: (says.get(one, one) for one in row.varies))
    yield from _grouped(
        "What depends on the weights, as where they decide which tokens are attended to:", "what", varying
    )


def _variants(rows: Sequence[Row]) -> Iterator[str]:
    yield "\n## Variants\n"
    yield "| variant | status | why |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| `{row.type}` | {row.status} | {_anywhere(row.detail)} |"


def _each(rows: Iterable[Row], values: Callable[[Row], Iterable[str]]) -> dict[str, list[Row]]:
    """Rows by each value that they have."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for value in values(row):
            if value:
                found[value].append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _grouped(title: str, head: str, groups: dict[str, list[Row]]) -> Iterator[str]:
    if not groups:
        return
    yield f"\n{title}\n" if title else ""
    yield f"| {head} | types |"
    yield "|---|---|"
    for value, rows in groups.items():
        yield f"| {value} | {_named(rows)} |"


def _named(rows: Iterable[Row]) -> str:
    return ", ".join(f"`{row.type}`" for row in rows)


def _anywhere(detail: str) -> str:
    """A reason without the sentence that begins it everywhere, and without the layer in which it first shows."""
    words = detail.removeprefix("No layout can be read off this model: ").rstrip(".")
    return re.sub(r"(?<=\.)\d+(?=\.|\b)", "*", words).replace("|", "\\|").replace("*", "\\*")
