"""The page: one file that opens offline, with the figures in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Final, TypeVar

from steerkit.artifacts.reading import Run, Sample
from steerkit.report.absent import absent_score, done, is_judge
from steerkit.report.agreement import CONDITIONS_SHOWN, SHOWN, make_agreements
from steerkit.report.crossentropy import make_cross_entropies
from steerkit.report.describe import (
    command_line,
    describe_direction,
    describe_intervention,
    duration,
    flatten,
    made_with,
)
from steerkit.report.diagnostics import make_diagnostics
from steerkit.report.findings import BlockFindings, make_findings
from steerkit.report.gaps import missing
from steerkit.report.glance import foretold, make_glance, other_way
from steerkit.report.glance import spread as spread_of
from steerkit.report.guards import make_guards
from steerkit.report.headline import opened
from steerkit.report.numbers import (
    NOT_JUDGED,
    NOT_MEASURED,
    NumberFormat,
    breakable_parts,
    clean,
    count,
    sentence_case,
    setting,
    significant,
)
from steerkit.report.placed import placed
from steerkit.report.ranks import RankView, make_ranks
from steerkit.report.search import SearchView, make_searches
from steerkit.report.separation import Separation, make_separations, not_looked_at
from steerkit.report.short import make_short
from steerkit.report.tables import Block, make_blocks

if TYPE_CHECKING:
    from markupsafe import Markup

    from steerkit.report.side_plots import Beside
    from steerkit.report.svg import Plot

T = TypeVar("T")

TEMPLATE: Final = "template.html.j2"
SAMPLES_OPEN: Final = 6
"""Prompts whose completions stand open: so many of them, fewer where each has many conditions."""
CARDS_OPEN: Final = 24
"""So many completions stand open at most, one for each prompt and condition."""
LEAST_OPEN: Final = 2
"""So many prompts stand open however many conditions each has."""
NOTES_OPEN: Final = 12
ROWS_OPEN: Final = 24
SENTENCES_OPEN: Final = 8


@dataclass(frozen=True)
class SampleGroup:
    """One prompt, and what each condition made of it, in the order of the conditions (baseline first)."""

    prompt: str
    data: str
    cards: tuple[Sample, ...]

    @property
    def before(self) -> str:
        """The conversation that comes before the prompt."""
        turns = list(self.cards[0].example.get("messages", ()))
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:-1])


@dataclass(frozen=True)
class BlockView:
    """A block with its figures; without sentences where it is derived from another one.

    ``opened`` says whether it stands open, or is folded behind its evaluator's name.
    """

    block: Block
    findings: BlockFindings | None
    conditions: Plot | None
    doses: tuple[Plot, ...]
    anchor: str
    opened: bool


def render_html(run: Run, plots: Sequence[Plot], beside: Beside) -> str:
    """The whole page.

    Args:
        run: what was read.
        plots: what ``plots.draw_all`` drew of it.
        beside: what is set side by side.
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
        count=count, significant=significant, setting=setting, sentence_case=sentence_case, svg=_inline,
        breakable=_breakable,
        fixed=NumberFormat(decimals=2).number, percent=NumberFormat(decimals=0, percent=True).number,
        placed=placed,
        intervention=describe_intervention, direction=describe_direction, other_way=other_way, foretold=foretold,
        NOT_JUDGED=NOT_JUDGED, NOT_MEASURED=NOT_MEASURED, NOTES_OPEN=NOTES_OPEN, ROWS_OPEN=ROWS_OPEN,
        SHOWN=SHOWN, CONDITIONS_SHOWN=CONDITIONS_SHOWN, absent_score=absent_score, done=done, spread=spread_of,
    )  # fmt: skip
    searches, agreements = _searches(run, plots), make_agreements(run)
    samples = group_samples(run)
    ranks, shown = _ranks(blocks, plots), opened(blocks)
    source = resources.files("steerkit.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        run=run,
        results=run.results,
        views=views,
        diagnostics=make_diagnostics(run.results),
        fold_findings=_repeats(views),
        not_looked_at=not_looked_at(run.results),
        separations=_with_plots(separations, plots),
        searches=searches,
        ranks=[(view, plot) for view, plot in ranks if view.block in shown],
        folded_ranks=by_evaluator([(view.block, (view, plot)) for view, plot in ranks if view.block not in shown]),
        guards=make_guards(run.results),
        agreements=agreements,
        cross_entropies=make_cross_entropies(run, blocks),
        short=make_short(run.results, blocks, [view for view, _ in searches], agreements),
        glance=make_glance(run.results, blocks),
        beside=beside,
        samples=spread(samples),
        judges={entry.name for entry in run.results.evaluators if is_judge(entry)},
        samples_open=_how_many(samples),
        conditions=[entry for entry in run.results.conditions if entry.kind != "control"],
        directions_in_control=_control_size(run),
        folded=by_evaluator([(view.block, view) for view in views if not view.opened]),
        missing=missing(run, blocks, separations),
        provenance=list(flatten(run.provenance)),
        command=command_line(run.origin),
        made_with=made_with(run),
        duration=duration(run.times),
    )
    return page if page.endswith("\n") else page + "\n"


def group_samples(run: Run) -> tuple[SampleGroup, ...]:
    """Completions by prompt, in the order of the file. Prompts that were scored without one are left out."""
    order = {name: place for place, name in enumerate(run.conditions)}
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in run.samples:
        # Two examples may have one text: other turns before it, or other completions.
        example = json.dumps(sample.example, sort_keys=True)
        groups.setdefault((sample.data, sample.prompt, example), []).append(sample)
    return tuple(
        SampleGroup(prompt, data, tuple(sorted(cards, key=lambda card: order.get(card.condition, len(order)))))
        for (data, prompt, _), cards in groups.items()
        if any(card.completion is not None for card in cards)
    )


def spread(groups: Sequence[SampleGroup]) -> tuple[SampleGroup, ...]:
    """The first prompt of every data set, then the second of each, and so on: the first few are of all kinds."""
    seen: dict[str, int] = {}
    turns = []
    for group in groups:
        turns.append(seen.setdefault(group.data, 0))
        seen[group.data] += 1
    return tuple(group for _, group in sorted(zip(turns, groups, strict=True), key=lambda one: one[0]))


def _how_many(groups: Sequence[SampleGroup]) -> int:
    """Prompts whose completions stand open."""
    cards = max((len(group.cards) for group in groups), default=1)
    return max(LEAST_OPEN, min(SAMPLES_OPEN, CARDS_OPEN // cards))


def by_evaluator(pairs: Sequence[tuple[Block, T]]) -> dict[str, list[T]]:
    """What belongs to blocks, under the names of their evaluators, in order."""
    found: dict[str, list[T]] = {}
    for block, item in pairs:
        found.setdefault(block.evaluator.name, []).append(item)
    return found


def _control_size(run: Run) -> tuple[int, ...]:
    """How many random directions conditions have: ``(5,)`` as a rule, ``()`` without control."""
    owners = [entry.of for entry in run.results.conditions if entry.kind == "control"]
    return tuple(sorted({owners.count(owner) for owner in set(owners)}))


def _views(blocks: Sequence[Block], plots: Sequence[Plot]) -> tuple[BlockView, ...]:
    from steerkit.report.plots import is_dose

    by_key = {plot.key: plot for plot in plots}
    doses = (plot for plot in plots if plot.key.startswith("dose-"))
    take = partial(next, doses)
    findings = {id(found.block): found for found in make_findings(blocks)}
    shown = opened(blocks)
    return tuple(
        BlockView(
            block,
            findings.get(id(block)),
            by_key.get(f"conditions-{number}"),
            tuple(take() for sweep in block.sweeps if is_dose(sweep)) if block.derived_from is None else (),
            f"block-{number}",
            block in shown,
        )
        for number, block in enumerate(blocks, start=1)
    )


def _repeats(views: Sequence[BlockView]) -> bool:
    """Whether so many sentences would stand open that they hide each other: each measure then has a list of them."""
    return sum(len(view.findings.findings) for view in views if view.findings and view.opened) > SENTENCES_OPEN


def _with_plots(separations: Sequence[Separation], plots: Sequence[Plot]) -> list[tuple[Separation, Plot]]:
    drawn = [plot for plot in plots if plot.key.startswith("separation-")]
    return list(zip([item for item in separations if item.measured], drawn, strict=True))


def _searches(run: Run, plots: Sequence[Plot]) -> list[tuple[SearchView, Plot]]:
    drawn = [plot for plot in plots if plot.key.startswith("search-")]
    return list(zip(make_searches(run.results), drawn, strict=True))


def _ranks(blocks: Sequence[Block], plots: Sequence[Plot]) -> list[tuple[RankView, Plot]]:
    drawn = [plot for plot in plots if plot.key.startswith("ranks-")]
    return list(zip(make_ranks(blocks), drawn, strict=True))


def _breakable(name: str) -> Markup:
    """A name that may be broken where its parts meet, and nowhere else."""
    from markupsafe import Markup, escape

    return Markup("").join(
        Markup("<wbr>") + escape(part) if number else escape(part) for number, part in enumerate(breakable_parts(name))
    )


def _inline(plot: Plot) -> Markup:
    from markupsafe import Markup

    # matplotlib has escaped every text in it.
    return Markup(plot.inline)
