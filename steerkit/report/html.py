"""The page: one file that opens offline, with the figures in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from steerkit.report.findings import BlockFindings, make_findings, verdict
from steerkit.report.numbers import NOT_MEASURED, clean, count, seconds, sentence_case, setting, significant
from steerkit.report.read import DirectionEntry, InterventionEntry, Run, Sample
from steerkit.report.separation import Separation, make_separations
from steerkit.report.tables import Block, make_blocks, unscored

if TYPE_CHECKING:
    from markupsafe import Markup

    from steerkit.report.svg import Plot

TEMPLATE: Final = "template.html.j2"


@dataclass(frozen=True)
class SampleGroup:
    """One prompt, and what each condition made of it (baseline first)."""

    prompt: str
    data: str
    cards: tuple[Sample, ...]


@dataclass(frozen=True)
class BlockView:
    """A block with its figures."""

    block: Block
    findings: BlockFindings
    conditions: Plot | None
    doses: tuple[Plot, ...]
    anchor: str


def render_html(run: Run, plots: Sequence[Plot]) -> str:
    """The whole page.

    Args:
        run: what was read.
        plots: what ``plots.draw_all`` drew of it.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )  # fmt: skip
    blocks = make_blocks(run.results)
    separations = make_separations(run.results)
    views = _views(blocks, plots)
    environment.globals.update(
        count=count, setting=setting, significant=significant, verdict=verdict, sentence_case=sentence_case,
        intervention=describe_intervention, direction=describe_direction, svg=_inline, NOT_MEASURED=NOT_MEASURED,
    )  # fmt: skip
    source = resources.files("steerkit.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        run=run,
        results=run.results,
        views=views,
        separations=_with_plots(separations, plots),
        samples=group_samples(run),
        conditions=[entry for entry in run.results.conditions if entry.kind != "control"],
        directions_in_control=_control_size(run),
        missing=missing(run, blocks, separations),
        provenance=list(flatten(run.provenance)),
        command=_command(run.provenance),
        duration=_duration(run.timings),
    )
    return page if page.endswith("\n") else page + "\n"


def describe_direction(entry: DirectionEntry) -> str:
    """A direction in one line: from what, where, how long."""
    if entry.positive and entry.negative:
        what = f"{entry.estimator or 'estimated'}: {entry.positive} minus {entry.negative}"
    else:
        what = entry.estimator or "read from a file"
    where = [f"read at {entry.site}"] if entry.site else []
    where += [f"positions {_signed(entry.positions)}"] if entry.positions else []
    norms = [significant(norm) for norm in entry.norms]
    size = [f"norm {norms[0]}" if len(norms) == 1 else f"norms {', '.join(norms)}"] if norms else []
    rank = [f"rank {entry.rank}"] if entry.rank != 1 else []
    return ", ".join([what, *where, *rank, *size])


def describe_intervention(entry: InterventionEntry) -> str:
    """An intervention in one line: what, with which options, where."""
    head = f"{entry.name} {entry.direction}" if entry.direction else entry.name
    options = [f"{name} {_option(value)}" for name, value in entry.options.items() if value is not None]
    sites = list(entry.sites or ())
    more = f" and {len(sites) - 2} more sites" if len(sites) > 3 else ""
    where = [f"at {', '.join(sites[:2] if more else sites)}{more}"] if sites else []
    positions = [f"positions {_signed(entry.positions)}"] if entry.positions else []
    return ", ".join([head, *options, *where, *positions])


def _option(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return setting(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _signed(positions: str) -> str:
    return setting(float(positions)) if positions.lstrip("-").isdigit() else positions


def group_samples(run: Run) -> tuple[SampleGroup, ...]:
    """Completions by prompt, in the order of the file; within a prompt in the order of the conditions."""
    order = {name: place for place, name in enumerate(run.conditions)}
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in run.samples:
        groups.setdefault((sample.data, sample.prompt), []).append(sample)
    return tuple(
        SampleGroup(prompt, data, tuple(sorted(cards, key=lambda card: order.get(card.condition, len(order)))))
        for (data, prompt), cards in groups.items()
    )


def missing(run: Run, blocks: Sequence[Block], separations: Sequence[Separation]) -> tuple[str, ...]:
    """What was not measured: the runner's notes, and every null and gap that the records hold."""
    found = list(run.results.notes)
    for block in blocks:
        names = [row.condition.name for row in block.all_rows if row.value is None]
        if names:
            found.append(f"{sentence_case(block.name)}: {_some(names)} {_were(names)} {NOT_MEASURED}.")
        lone = [row.condition.name for row in block.all_rows if row.value is not None and row.interval is None]
        if lone:
            found.append(f"{sentence_case(block.name)}: no interval for {_some(lone)}.")
        bare = [row.condition.name for row in block.rows if row.value is not None and row.control is None]
        if bare:
            found.append(f"{sentence_case(block.name)}: no control was run for {_some(bare)}.")
        failed = [row for row in block.rows if row.control and len(row.control.values) < row.control.planned]
        for row in failed:
            number = row.control.planned - len(row.control.values) if row.control else 0
            found.append(f"{sentence_case(block.name)}: {number} random directions for {row.condition.name} were missed.")
    found += [f"{name} left no record." for name in unscored(run.results)]
    for separation in separations:
        gaps = [entry.site for entry in separation.entries if entry.auroc is None or entry.d_prime is None]
        if gaps:
            found.append(f"Separation along {separation.title}: {_some(gaps)} {_were(gaps)} not fully measured.")
    if not separations:
        found.append("Separation of the classes by layer.")
    if not run.samples:
        found.append("Completions: the recipe asks for none.")
    return tuple(dict.fromkeys(found))


def _some(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as ``("versions.torch", "2.13.0")``; a null says that it is unknown."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            yield from flatten(item, f"{name}.")
        elif isinstance(item, list) and all(isinstance(part, str) for part in item):
            yield name, shlex.join(item) if key == "argv" else ", ".join(item) or "none"
        elif item is None:
            yield name, "not known"
        else:
            yield name, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _command(provenance: Mapping[str, Any]) -> str | None:
    argv = provenance.get("argv")
    if not isinstance(argv, list) or not argv:
        return None
    words = [str(word) for word in argv]
    return shlex.join([words[0].replace("\\", "/").rsplit("/", 1)[-1], *words[1:]])


def _duration(timings: Mapping[str, Any]) -> str | None:
    total = timings.get("total")
    if isinstance(total, Mapping):
        total = total.get("seconds")
    if not isinstance(total, (int, float)):
        stages = timings.get("stages", timings)
        numbers = [item for item in stages.values() if isinstance(item, (int, float))] if stages else []
        total = sum(numbers) if numbers else None
    return seconds(float(total)) if total is not None else None


def _control_size(run: Run) -> tuple[int, ...]:
    """How many random directions conditions have: ``(5,)`` as a rule, ``()`` without control."""
    owners = [entry.of for entry in run.results.conditions if entry.kind == "control"]
    return tuple(sorted({owners.count(owner) for owner in set(owners)}))


def _views(blocks: Sequence[Block], plots: Sequence[Plot]) -> tuple[BlockView, ...]:
    from steerkit.report.plots import is_curve

    by_key = {plot.key: plot for plot in plots}
    doses = (plot for plot in plots if plot.key.startswith("dose-"))
    take = partial(next, doses)
    findings = make_findings(blocks)
    return tuple(
        BlockView(
            block,
            found,
            by_key.get(f"conditions-{number}"),
            tuple(take() for sweep in block.sweeps if is_curve(sweep)),
            f"block-{number}",
        )
        for number, (block, found) in enumerate(zip(blocks, findings, strict=True), start=1)
    )


def _with_plots(separations: Sequence[Separation], plots: Sequence[Plot]) -> list[tuple[Separation, Plot]]:
    drawn = [plot for plot in plots if plot.key.startswith("separation-")]
    return list(zip([item for item in separations if item.measured], drawn, strict=True))


def _inline(plot: Plot) -> Markup:
    from markupsafe import Markup

    return Markup(plot.inline)  # noqa: S704  matplotlib has escaped every text in it


