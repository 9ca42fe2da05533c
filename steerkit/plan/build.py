"""Recipe and catalog to a plan. Every name is resolved, and every problem is found before one is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.catalog import Catalog
from steerkit.errors import Problem, RecipeError
from steerkit.plan.completions import meter_completions
from steerkit.plan.cost import (
    Meter,
    meter_directions,
    meter_filters,
    meter_groups,
    meter_monitors,
    meter_references,
    meter_searches,
    meter_tokens,
)
from steerkit.plan.files import hash_of_files
from steerkit.plan.fit import too_long
from steerkit.plan.heldout import also_reported, looked_at
from steerkit.plan.looks import PlannedGroup, plan_groups, plan_separations
from steerkit.plan.monitored import without_readings
from steerkit.plan.places import Look, Wanted, places
from steerkit.plan.plan import Plan
from steerkit.plan.planned.model import PlannedLoading
from steerkit.plan.planned.reporting import PlannedReport, PlannedTradeoff
from steerkit.plan.sections import Sections
from steerkit.plan.suffixes import PlannedSuffixes, SuffixResolver, meter_suffixes
from steerkit.plan.tokens import token_counter
from steerkit.plan.types import (
    Cost,
    PlannedDirection,
    PlannedSeparation,
)
from steerkit.recipe.data import parse_ref
from steerkit.recipe.draft import Draft
from steerkit.recipe.layers import PROFILES
from steerkit.recipe.load import draft_recipe
from steerkit.recipe.problems import in_order
from steerkit.recipe.reporting import TradeoffRecipe
from steerkit.recipe.schema import Recipe


def plan_recipe(
    source: str | os.PathLike[str],
    overrides: Iterable[str],
    catalog: Catalog,
    profile: str | None = None,
    look: Look | None = None,
) -> Plan:
    """Read a recipe and resolve every name of it.

    Args:
        source: a file, or the name of a shipped recipe.
        overrides: ``"a.b=value"`` each.
        catalog: the plugins that it may name.
        profile: name of one of its profiles, or None.
        look: as of ``make_plan``.

    Raises:
        RecipeError: with every problem: what can't be read doesn't hide what can't be resolved.
    """
    try:
        return make_plan(draft_recipe(source, overrides, profile), catalog, look)
    except RecipeError as error:
        raise error if profile is None else _with_cure(error, profile) from None


def _with_cure(error: RecipeError, profile: str) -> RecipeError:
    """What is wrong with a profile that a file below gives is mended in the recipe's own, which lies over it."""
    cure = (
        f"the profile comes from a file that this recipe extends; write the keys that differ under profiles.{profile} "
        f"of your own, or take it away with profiles: {{{profile}: null}}"
    )
    inherited = (PROFILES, profile)
    problems = [
        replace(one, message=f"{one.message}: {cure}")
        if one.file and tuple(one.where.split(".")[:2]) == inherited
        else one
        for one in error.problems
    ]
    return RecipeError(problems, error.source)


def make_plan(recipe: Recipe | Draft, catalog: Catalog, look: Look | None = None) -> Plan:
    """Resolve every name of a recipe.

    Args:
        recipe: a recipe, whose files are relative to the present folder, or a draft, which knows where it was written
            and whose problems are raised with those that are found here.
        catalog: the plugins that it may name.
        look: who looks a model's sites up, where the recipe names some that only the model's modules tell of. None:
            they are checked when the model is loaded.

    Raises:
        RecipeError: with every problem of the recipe, its data and its plugins' options.
    """
    return _Planner(recipe if isinstance(recipe, Draft) else Draft(recipe), catalog).plan(look)


class _Planner(SuffixResolver):
    def plan(self, look: Look | None) -> Plan:
        """Resolve all, then tell all."""
        recipe = self.recipe
        self.model_adapter, template = self.architecture(), self.template()
        self.read_data(template)
        found = self.sections(template)
        self.check_together(template, found.conditions, found.evaluations)
        self.check_candidates(found.directions, found.searches)
        self.check_report(found.conditions, found.evaluations)
        if look is not None and self.model_adapter is not None:
            self.check_places(self.model_adapter, look)
        if self.problems:
            raise RecipeError(in_order(self.problems), str(self.draft.source or "recipe"))
        unread = without_readings(found.monitors, found.evaluations, found.samples, self.examples, self.shown)
        self.notes += unread
        separations = plan_separations(found.directions, self.data) if recipe.report.separation else ()
        beside = also_reported(separations, found.suffixes)
        self.tell_not_held_out(
            *looked_at(found.evaluations, found.searches, found.filters, self.tokens, self.examples, beside)
        )
        groups = plan_groups(
            found.conditions,
            recipe.control.random_directions,
            found.evaluations,
            found.samples,
            monitored=bool(found.monitors),
        )
        plan = self.whole(template, found, self.cost(template, found, separations, groups))
        return replace(plan, unread=tuple(unread))

    def sections(self, template: str) -> Sections:
        """Each section by itself, in the order in which problems are found."""
        recipe = self.recipe
        filters = tuple(one for item in recipe.filter.items() if (one := self.filter(*item)) is not None)
        directions = tuple(filter(None, (self.direction(*item) for item in recipe.directions.items())))
        searches = tuple(filter(None, (self.search(*item) for item in recipe.search.items())))
        conditions = tuple(one for item in recipe.conditions.items() for one in self.condition(*item))
        evaluations = tuple(filter(None, (self.evaluation(*item) for item in enumerate(recipe.evaluate))))
        return Sections(
            directions=directions,
            conditions=conditions,
            evaluations=evaluations,
            completions=self.completions(template, conditions, directions, searches),
            samples=self.samples(),
            monitors=tuple(filter(None, (self.monitor(*item) for item in recipe.monitors.items()))),
            searches=searches,
            filters=filters,
            suffixes=tuple(filter(None, (self.suffixes(*item) for item in recipe.suffixes.items()))),
        )

    def check_places(self, adapter: ArchitectureSpec, look: Look) -> None:
        """Hold the recipe's sites to the model's own, where only these tell."""
        wanted = Wanted(tuple(self.placed), tuple(self.everywhere))
        found = places(wanted, adapter, self.model, self.recipe.model.trust_remote_code, look)
        for message, path in found.problems:
            self.complain(message, *path)
        self.notes += [
            f"{Problem(message, *self.draft.place(*path))} That is as far as can be told without weights."
            for message, path in found.doubts
        ]
        self.notes = [note for note in self.notes if note not in found.settled] + list(found.notes)

    def whole(self, template: str, found: Sections, cost: Cost) -> Plan:
        """The plan of resolved sections, with what the recipe and the model say beside them."""
        recipe = self.recipe
        return Plan(
            recipe=recipe,
            source=self.draft.source,
            report=self.report(),
            seed=recipe.seed,
            hash=self.hash(template, found.directions, found.suffixes),
            model=self.model,
            loading=self.loading(template),
            architecture=self.model_adapter,
            adapters=self.catalog.only("architecture"),
            data=self.data,
            directions=found.directions,
            conditions=found.conditions,
            evaluations=found.evaluations,
            samples=found.samples,
            random_directions=recipe.control.random_directions,
            separated=recipe.report.separation,
            cost=cost,
            plugins=self.plugins(),
            notes=tuple(dict.fromkeys(self.notes)),
            monitors=found.monitors,
            profiles=self.draft.profiles,
            searches=found.searches,
            filters=found.filters,
            tokens=dict(self.tokens),
            completions=found.completions,
            suffixes=found.suffixes,
            not_held_out=tuple(dict.fromkeys(self.not_held_out)),
        )

    def report(self) -> PlannedReport:
        """What readers are told."""
        recipe, source = self.recipe, self.draft.source
        folder = None if source is None else source.resolve().parent
        published = tuple(one for one in recipe.report.published if one.model == recipe.model.source)
        resolved = self.draft.resolved()
        written = recipe.report
        return PlannedReport(
            recipe.name,
            written.title,
            recipe.description,
            resolved,
            folder,
            published,
            None if written.tradeoff is None else self.tradeoff(written.tradeoff),
            written.compared_with,
        )

    def tradeoff(self, written: TradeoffRecipe) -> PlannedTradeoff:
        """A trade-off, its data as results call them."""
        sides = {key: tuple(str(parse_ref(text, self.data)) for text in texts) for key, texts in written.sides.items()}
        return PlannedTradeoff(written.evaluator, **sides)

    def loading(self, template: str) -> PlannedLoading:
        """How the model is loaded."""
        section = self.recipe.model
        return PlannedLoading(
            source=section.source,
            revision=section.revision,
            adapter=section.adapter,
            dtype=section.dtype,
            device=section.device,
            chat_template=template,
            system_prompt=section.system_prompt,
            chat_template_arguments=section.chat_template_arguments,
            special_tokens_in_text=section.special_tokens_in_text,
            trust_remote_code=section.trust_remote_code,
            accept_terms=section.accept_terms,
            batch_tokens=section.batch_tokens,
            placement=replace(section.placement, offload_folder=self.offload_folder),
        )

    def cost(
        self,
        template: str,
        found: Sections,
        separations: Sequence[PlannedSeparation],
        groups: Sequence[PlannedGroup],
    ) -> Cost:
        """What it takes."""
        section = self.recipe.model
        arguments = section.chat_template_arguments
        counter = partial(token_counter, self.model.folder, template, arguments=arguments)
        written = {one.name: one.new_tokens for one in found.completions}
        prompted = cache(partial(counter, instead=True))
        meter = Meter(self.data, counter(section.system_prompt), section.batch_tokens, prompted, written)
        meter_directions(meter, found.directions, separations)
        meter_tokens(meter, self.tokens.values())
        meter_filters(meter, found.filters)
        known = meter_completions(meter, found.completions)
        meter_searches(meter, found.searches, found.directions, self.model.n_layers)
        meter_references(meter, found.evaluations)
        meter_monitors(meter, found.monitors)
        meter_suffixes(meter, found.suffixes)
        meter_groups(meter, groups, known)
        self.check_fitting(meter)
        return meter.cost()

    def check_fitting(self, meter: Meter) -> None:
        """Nothing is longer than what the model reads. Raises ``RecipeError``: all else is known to be right by now."""
        for one in too_long(meter, self.model.context):
            self.complain(one.message, "data", one.ref.dataset)
        if self.problems:
            raise RecipeError(in_order(self.problems), str(self.draft.source or "recipe"))

    def hash(self, template: str, directions: Sequence[PlannedDirection], suffixes: Sequence[PlannedSuffixes]) -> str:
        """sha256 over all that the plan comes from."""
        files = {item.name: hash_of_files(item) for item in directions if item.file is not None}
        # Files count by what they hold, wherever they are: only the model's weights are too large for that.
        recipe = self.draft.resolved()
        for data in recipe["data"].values():
            data["file"] = data["file"] is not None
        for study in suffixes:
            recipe["suffixes"][study.name]["suffixes"] = list(study.suffixes)
        recipe["directions"].update(
            {name: {**recipe["directions"][name], "file": file} for name, file in files.items()}
        )
        recipe["model"]["chat_template"] = template
        recipe["model"].pop("offload_folder", None)  # weights are the same wherever they are kept
        parts = {
            "recipe": recipe,
            "data": {
                name: {part: [example.to_json() for example in rows] for part, rows in splits.items()}
                for name, splits in self.data.items()
            },
            "plugins": self.plugins(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def plugins(self) -> tuple[Mapping[str, str], ...]:
        """Kind, name, distribution and version of each plugin that the plan uses."""
        entries = [self.catalog.entry(kind, name) for kind, name in sorted(self.used)]
        return tuple(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": entry.origin.distribution,
                "version": entry.origin.version,
            }
            for entry in entries
        )
