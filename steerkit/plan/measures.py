"""Sections ``evaluate``, ``monitors`` and ``report.samples``: what is looked at, on which data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from steerkit.api.hookspecs import Lack, Needs
from steerkit.catalog import Catalog
from steerkit.errors import PluginError, counted, nearest
from steerkit.plan.answers import TokenResolver
from steerkit.plan.conditions import are_several, held_at
from steerkit.plan.names import KeyPart
from steerkit.plan.planned.monitors import PlannedCalibration, PlannedMonitor
from steerkit.plan.planned.reporting import PlannedSamples
from steerkit.plan.turns import BEHIND_PROMPT
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef
from steerkit.recipe.draft import EVALUATION_KEYS, OPTIONS, Draft
from steerkit.recipe.schema import EvaluationRecipe
from steerkit.recipe.steering import MonitorRecipe
from steerkit.sharing import greedy_tokens
from steerkit.types import FROM_TOKEN, Positions, Site, SitePattern


class MeasureResolver(TokenResolver):
    """Resolves what is measured and shown."""

    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        super().__init__(draft, catalog)
        self.measured: dict[DataRef, tuple[KeyPart, ...]] = {}
        self.not_held_out: list[str] = []
        self.first_called: dict[str, int] = {}

    def tell_not_held_out(self, *sentences: str) -> None:
        """Note what depends on prompts that are measured, for the report too."""
        self.notes += sentences
        self.not_held_out += sentences

    def evaluation(self, index: int, written: EvaluationRecipe) -> PlannedEvaluation | None:
        """One evaluator, or None where it has problems."""
        path = ("evaluate", index)
        refs = [self.ref(text, *path, "data", at) for at, text in enumerate(written.data)]
        for at, ref in enumerate(refs):
            self.measure(ref, *path, "data", at)
        known = [ref for ref in refs if ref is not None]
        if len(set(written.data)) != len(written.data) or len(set(known)) != len(known):
            self.complain("one data reference stands here twice", *path, "data")
        if self.first_called.setdefault(written.name, index) != index:
            self.complain(f"two evaluators are called {written.name!r}; give one `name: ...`", *path)
        spec = self.spec("evaluator", written.plugin, *path)
        options = (
            self.options(spec, written.options, *path, "options", beside=(*EVALUATION_KEYS, OPTIONS)) if spec else None
        )
        if spec is None or options is None:
            return None
        needs = self.needs(spec, options, path)
        if needs is None:
            return None
        if needs.next_token_logits or needs.max_new_tokens:
            for ref in known:
                self.check_open(ref, *path, "data")
        self.answer_tokens(options, path)
        references = self.references(needs, written.options, path)
        self.check_read(needs, [*known, *(ref for _, ref in references)], written.options, path)
        uncontrolled = self.uncontrolled(written, known, path)
        return PlannedEvaluation(written.name, spec, options, needs, tuple(known), references, uncontrolled)

    def uncontrolled(
        self, written: EvaluationRecipe, data: Sequence[DataRef], path: tuple[KeyPart, ...]
    ) -> tuple[DataRef, ...]:
        """Of an evaluator's data, where random controls aren't measured by it."""
        if isinstance(written.control, bool):
            return () if written.control else tuple(data)
        named = [self.ref(text, *path, "control", at) for at, text in enumerate(written.control)]
        known = [ref for ref in named if ref is not None]
        if len(set(written.control)) != len(written.control) or len(set(known)) != len(known):
            self.complain("one data reference stands here twice", *path, "control")
        for at, ref in enumerate(named):
            if ref is not None and ref not in data:
                self.complain(f"{ref} is none of the data of {written.name}", *path, "control", at)
        return tuple(ref for ref in data if ref not in named)

    def references(
        self, needs: Needs, options: Mapping[str, object], path: tuple[KeyPart, ...]
    ) -> tuple[tuple[str, DataRef], ...]:
        """The other data that an evaluator looks at. What can't be found is told at the option that names it."""
        found = []
        for name in needs.references:
            where: tuple[KeyPart, ...] = ()
            for key, value in options.items():
                if value == name:
                    where = (key,)
                elif isinstance(value, (list, tuple)) and name in value:
                    where = (key, list(value).index(name))
            ref = self.ref(name, *path, *((OPTIONS, *where) if where else ()))
            if ref is not None:
                found.append((name, ref))
                self.compared[ref] = path
        return tuple(found)

    def check_read(
        self, needs: Needs, refs: Iterable[DataRef], options: Mapping[str, object], path: tuple[KeyPart, ...]
    ) -> None:
        """Every example has the tokens at which an evaluator reads activations."""
        for _, text in needs.activations:
            positions = Positions.parse(text)
            key = next((key for key, value in options.items() if str(value) == text), None)
            where = path if key is None else (*path, OPTIONS, key)
            if positions.role in BEHIND_PROMPT and not greedy_tokens(needs):
                self.complain(f"{positions} are tokens behind the prompt, and only prompts are read here", *where)
                continue
            for ref in dict.fromkeys(refs):
                self.check_turns(positions, ref, *where)

    def check_labels(self, evaluations: Iterable[PlannedEvaluation]) -> None:
        """Results hold each name once: no evaluator is called as a value is that another one derives."""
        names = [item.name for item in self.recipe.evaluate]
        taken = {name: name for name in names}
        for item in evaluations:
            for label in item.added:
                other = taken.setdefault(label, item.name)
                if other != item.name:
                    message = f"{item.name} adds {label!r} to the results, and so would {other}; give one `name: ...`"
                    self.complain(message, "evaluate", names.index(other))

    def check_lacks(self, evaluations: Iterable[PlannedEvaluation]) -> None:
        """Examples hold what evaluators need of them for values of the whole set, as far as these tell."""
        names = [item.name for item in self.recipe.evaluate]
        for item in evaluations:
            if not item.data or not all(map(self.examples, item.data)):
                continue  # what keeps data from being read is told where they stand
            path = ("evaluate", names.index(item.name))
            lack = self.lack(item, item.data, path)
            if lack is not None and lack.option is not None:
                self.complain(lack.what, *path, OPTIONS, lack.option)
                continue
            for ref in item.data:
                if (lack := self.lack(item, (ref,), path)) is not None:
                    self.notes.append(f"{item.name} has no value on {ref}: {lack.what}.")

    def lack(self, item: PlannedEvaluation, refs: Sequence[DataRef], path: tuple[KeyPart, ...]) -> Lack | None:
        """What the examples of some splits together lack for an evaluator, or None."""
        try:
            lack: object = item.spec.lacks(item.options, [one for ref in refs for one in self.examples(ref)])
        except Exception as error:
            what = "failed to say what examples lack"
            self.complain(f"{item.spec.name} {what}: {type(error).__name__}: {error}", *path)
            return None
        if lack is not None and not isinstance(lack, Lack):
            what = f"`lacks` returned {type(lack).__name__}, not steerkit.api.hookspecs.Lack"
            raise PluginError(f"Evaluator {item.spec.name!r}: {what}.")
        return lack

    def samples(self) -> PlannedSamples | None:
        """The samples, or None."""
        written = self.recipe.report.samples
        if written is None:
            return None
        path = ("report", "samples")
        ref = self.ref(written.data, *path, "data")
        if ref is None:
            return None
        self.measure(ref, *path, "data")
        self.check_open(ref, *path, "data")
        there = len(self.examples(ref))
        if 0 < there < written.n:  # a data set without texts has a problem of its own
            self.complain(f"asks for {counted(written.n, 'prompt')}; {ref} has {there}", *path, "n")
        return PlannedSamples(ref, written.n, written.max_new_tokens)

    def measure(self, ref: DataRef | None, *path: KeyPart) -> None:
        """Note that something is measured on some texts, and where that is said first."""
        if ref is not None:
            self.measured.setdefault(ref, path)

    # Monitors.

    def monitor(self, name: str, written: MonitorRecipe) -> PlannedMonitor | None:
        """One monitor, or None where it has problems."""
        path, before = ("monitors", name), len(self.problems)
        self.check_known(written.direction, path)
        sites = self.sites(written.sites, (*path, "sites"))
        self.check_monitored(written.direction, sites, path)
        positions = Positions.parse(written.positions)
        self.check_one(positions, *path, "positions")
        if positions.role == FROM_TOKEN:
            self.complain(f"{positions} can be steered, not read: write a role such as all", *path, "positions")
        calibration = self.calibration(name, written)
        if len(self.problems) > before:
            return None
        if written.calibrate is not None:
            return PlannedMonitor(name, written.direction, 0.0, written.calibrate.side, sites, positions, calibration)
        threshold = written.above if written.above is not None else written.below
        assert threshold is not None
        side: Literal["above", "below"] = "above" if written.above is not None else "below"
        return PlannedMonitor(name, written.direction, threshold, side, sites, positions)

    def calibration(self, name: str, written: MonitorRecipe) -> PlannedCalibration | None:
        """How a threshold is set: never by what is reported, which would then be as good as it was asked to be."""
        one, path = written.calibrate, ("monitors", name, "calibrate")
        ref = None if one is None else self.ref(one.data, *path, "data")
        if one is None or ref is None:
            return None
        if ref.part == "test":
            self.complain(
                f"{ref} is what numbers in the report come from; set the threshold on validation", *path, "data"
            )
        positions = Positions.parse(written.positions)
        if positions.role in BEHIND_PROMPT:
            self.complain(
                f"a threshold is set by readings of prompts, and {positions} are tokens behind them: read other "
                "positions, such as all, or write the threshold as a number, above: ... or below: ...",
                *("monitors", name, "positions"),
            )
        self.compared[ref] = (*path, "data")
        self.check_turns(positions, ref, *path, "data")
        n = len(self.examples(ref))
        if n and int(n * one.false_alarms / 1000 + 1e-9) == 0:
            self.notes.append(
                f"Monitor {name!r}: {counted(n, 'example')} of {ref} can't tell "
                f"{counted(one.false_alarms, 'false alarm', form='g')} per 1,000: "
                f"one of them is {1000 / n:.0f}; its threshold is the reading that goes furthest among them."
            )
        if ref in self.estimated:
            self.notes.append(f"Monitor {name!r} gets its threshold from {ref}, which directions are estimated from.")
        return PlannedCalibration(ref, one.false_alarms)

    def check_monitored(
        self, direction: str, sites: Sequence[Site | SitePattern] | None, path: tuple[KeyPart, ...]
    ) -> None:
        """Of a direction at several sites a monitor says at which ones it reads, as far as they are known."""
        own = self.direction_sites(direction)
        if own is None or not are_several(own):
            return
        if sites is None:
            if not self.draft.lost(*path, "sites"):
                example = "<site>" if isinstance(own, SitePattern) else own[len(own) // 2]
                message = f"of direction {direction!r} {held_at(own)}; say which ones are read, sites: [{example}]"
                self.complain(message, *path)
            return
        for at, site in enumerate(sites):
            lacks = site not in own if isinstance(own, tuple) else site.stream != own.stream
            if isinstance(site, Site) and lacks:
                self.complain(f"direction {direction!r} has no vectors at {site}; {held_at(own)}", *path, "sites", at)

    def check_monitors(self, evaluations: Sequence[PlannedEvaluation]) -> None:
        """Evaluators that score readings find their monitors, and monitors somebody who looks at them."""
        known, names = self.recipe.monitors, [item.name for item in self.recipe.evaluate]
        for item in evaluations:
            path = ("evaluate", names.index(item.name))
            if item.needs.monitors is True and not known:
                self.complain(f"{item.name} scores readings of monitors: add section `monitors`", *path)
            for name in () if isinstance(item.needs.monitors, bool) else item.needs.monitors:
                if name not in known and not self.draft.lost("monitors", name):
                    self.complain(f"unknown monitor {name!r}. {nearest(name, known, 'monitor')}", *path)
                elif name in known and known[name].calibrate is not None and greedy_tokens(item.needs):
                    self.notes.append(
                        f"Monitor {name!r} has its threshold from prompts, and {item.name} reads completions too: more "
                        "tokens, and more that cross."
                    )
        if self.recipe.report.samples is None and not any(item.needs.monitors for item in evaluations):
            self.notes += [
                f"Monitor {name!r} is read by no evaluator, and there are no report.samples to show it."
                for name in known
            ]
