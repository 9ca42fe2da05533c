"""Section ``directions``: what they are estimated from, or the file that holds them, and where they have vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from steerkit.api.hookspecs import NEGATIVE, POSITIVE, EstimatorNeeds, EstimatorSpec, Lack, Options
from steerkit.catalog import Catalog, needs_of
from steerkit.errors import PluginError, SteerkitError, counted, nearest
from steerkit.plan.names import KeyPart
from steerkit.plan.saved import SavedResolver
from steerkit.plan.tokens import turns_shown
from steerkit.plan.turns import BEHIND_INSTRUCTION, lacking, within_prompt, without_completion
from steerkit.plan.types import PlannedDirection
from steerkit.recipe.completions import with_completions
from steerkit.recipe.data import DataRef, load_data
from steerkit.recipe.draft import Draft
from steerkit.recipe.rows import describe_shared, identity, prompt_of
from steerkit.recipe.steering import DirectionRecipe
from steerkit.types import Example, Positions, Site, SitePattern, parse_sites


class DirectionResolver(SavedResolver):
    """Resolves section ``directions``, and names of directions wherever they stand."""

    shown: Callable[[Example], list[tuple[str, bool]]]
    """Tells each turn's role, and whether the chat template shows it."""

    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        super().__init__(draft, catalog)
        self.estimated: dict[DataRef, None] = {}

    def read_data(self, template: str) -> None:
        """Read all data sets, and what a chat template shows of them."""
        section = self.recipe.model
        self.shown = turns_shown(self.model.folder, template, section.system_prompt, section.chat_template_arguments)
        loaded, problems = load_data(self.draft)
        self.data, further = with_completions(self.draft, loaded)
        self.problems += [*problems, *further]

    def direction(self, name: str, written: DirectionRecipe) -> PlannedDirection | None:
        """One direction, or None where it has problems."""
        before = len(self.problems)
        path = ("directions", name)
        if written.file is not None:
            return self.saved(name, written, written.file)
        assert written.estimator is not None
        spec = self.spec("estimator", written.estimator, *path, "estimator")
        options = self.options(spec, written.options, *path, "options") if spec else None
        classes = self.classes(written, path)
        needs = self.estimator_needs(spec, options, path) if spec is not None and options is not None else None
        site = self.read_at(written, needs, path)
        positions = self.read_positions(written, needs, path)
        self.estimated.update(dict.fromkeys(ref for _, ref in classes))
        self.check_classes(classes, positions, path)
        if needs is not None and written.classes is not None and needs.classes != "labels":
            message = f"{written.estimator} takes two classes: write positive and negative"
            self.complain(message, *path, "classes")
        if needs is not None and needs.classes == "pairs":
            self.check_pairs(written.estimator, dict(classes), path)
        if len(self.problems) > before or spec is None or options is None or needs is None:
            return None
        further = self.further_of(name, needs, classes)
        if not self.check_vectors(needs, positions, path) or not self.check_lack(spec, options, classes, path):
            return None
        self.note_own_choice(name, written, needs)
        refs = dict(classes) if written.classes is None else {}
        return PlannedDirection(
            name,
            spec,
            options,
            refs.get(POSITIVE),
            refs.get(NEGATIVE),
            () if written.classes is None else tuple(classes),
            site,
            positions,
            further=further,
        )

    def classes(self, written: DirectionRecipe, path: tuple[KeyPart, ...]) -> list[tuple[str, DataRef]]:
        """The classes of an estimator that there are, by name."""
        sides = {POSITIVE: written.positive or "", NEGATIVE: written.negative or ""}
        within = path if written.classes is None else (*path, "classes")
        refs = {label: self.ref(text, *within, label) for label, text in (written.classes or sides).items()}
        return [(label, ref) for label, ref in refs.items() if ref is not None]

    def estimator_needs(
        self, spec: EstimatorSpec, options: Options, path: tuple[KeyPart, ...]
    ) -> EstimatorNeeds | None:
        """What an estimator must see, or None and a problem."""
        try:
            return needs_of(spec, options)
        except PluginError as error:
            self.complain(error, *path, "estimator")
            return None

    def read_at(
        self, written: DirectionRecipe, needs: EstimatorNeeds | None, path: tuple[KeyPart, ...]
    ) -> Site | SitePattern | None:
        """Where a direction is read: as the recipe says, unless the estimator has sites of its own."""
        own = None if needs is None else needs.sites
        if own is not None:
            found = [self.sites_of(text, *path, "estimator") for text in own]
            return found[0] if len(found) == 1 else None
        if written.site is not None:
            return self.sites_of(written.site, *path, "site")
        if needs is not None:
            self.complain("expected site as well (or file: for a saved direction)", *path)
        return None

    def read_positions(
        self, written: DirectionRecipe, needs: EstimatorNeeds | None, path: tuple[KeyPart, ...]
    ) -> Positions:
        """At which tokens a direction is read: as the recipe says, unless the estimator has positions of its own."""
        positions, where = Positions.parse(written.positions), (*path, "positions")
        if needs is not None and needs.positions is not None:
            if positions.each:
                message = f"{written.estimator} reads at positions of its own, {needs.positions}: remove positions"
                self.complain(message, *where)
            return Positions.parse(needs.positions)
        if positions.role == "generated":
            message = "prompts have no generated tokens; directions are read from prompts, or from given completions"
            self.complain(f"{message}: write completion", *where)
        return positions

    def note_own_choice(self, name: str, written: DirectionRecipe, needs: EstimatorNeeds) -> None:
        """Say what an estimator chooses itself, whatever the recipe says."""
        if needs.sites is not None:
            sites = ", ".join(needs.sites)
            self.notes.append(f"{written.estimator} chooses its own sites for direction {name!r}: {sites}.")
        if needs.positions is not None and "positions" in written.model_fields_set:
            self.notes.append(f"{written.estimator} reads direction {name!r} at its own positions: {needs.positions}.")

    def check_lack(
        self,
        spec: EstimatorSpec,
        options: Options,
        classes: Sequence[tuple[str, DataRef]],
        path: tuple[KeyPart, ...],
    ) -> bool:
        """Whether the examples of all classes hold what the estimator needs of them, as far as these tell."""
        examples = {label: self.examples(ref) for label, ref in classes}
        if not all(examples.values()):
            return True  # what keeps data from being read is told where they stand
        try:
            lack: object = spec.lacks(options, examples)
        except Exception as error:
            what = "failed to say what examples lack"
            self.complain(f"{spec.name} {what}: {type(error).__name__}: {error}", *path, "estimator")
            return False
        if lack is None:
            return True
        if not isinstance(lack, Lack):
            what = f"`lacks` returned {type(lack).__name__}, not steerkit.api.hookspecs.Lack"
            raise PluginError(f"Estimator {spec.name!r}: {what}.")
        self.complain(lack.what, *path, *(("options", lack.option) if lack.option else ("estimator",)))
        return False

    def check_vectors(self, needs: EstimatorNeeds, positions: Positions, path: tuple[KeyPart, ...]) -> bool:
        """Whether there can be as many vectors as an estimator's options ask for, as far as these tell."""
        if needs.rank is None or needs.rank < 2:
            return True
        fault, most, width = None, positions.most if needs.per_position else None, self.model.d_model
        if most is not None and needs.rank > most:
            tokens = counted(most, "token")
            fault = f"'{positions}' are {tokens}, which span no more directions than that: write {max(most, 1)} at most"
        elif width is not None and needs.rank > width:
            fault = f"the model's width is {width}, so there are no more directions than that: write {width} at most"
        if fault is not None:
            self.complain(f"rank {needs.rank}: {fault}", *path, "options", "rank")
        return fault is None

    def further_of(self, name: str, needs: EstimatorNeeds, classes: Sequence[tuple[str, DataRef]]) -> tuple[str, ...]:
        """Names of the directions that an estimator gives beside its main one."""
        outputs = [label for label, _ in classes] if needs.outputs == "labels" else needs.outputs
        further = tuple(f"{name}.{output}" for output in outputs)
        self.further.update(dict.fromkeys(further))
        return further

    def check_classes(
        self, classes: Sequence[tuple[str, DataRef]], positions: Positions, path: tuple[KeyPart, ...]
    ) -> None:
        """Of the classes of a direction no two have a text in common, and all have what is to be read."""
        for ref in dict.fromkeys(ref for _, ref in classes):
            self.check_turns(positions, ref, *path, "positions")
            fault = without_completion(ref, self.examples(ref)) if positions.role == "completion" else None
            if fault is not None:
                self.complain(f"{fault}: name a field, completion: <field>, or pairs of them", *path, "positions")
        for (first, one), (second, other) in combinations(classes, 2):
            of_two = (first, second) == (POSITIVE, NEGATIVE)
            self.check_apart((first, one), (second, other), positions, path, second if of_two else "classes")

    def check_pairs(self, estimator: str, classes: Mapping[str, DataRef], path: tuple[KeyPart, ...]) -> None:
        """An estimator of pairs gets as many examples of both classes."""
        sizes = [len(self.examples(classes[label])) for label in (POSITIVE, NEGATIVE) if label in classes]
        if len(sizes) == 2 and all(sizes) and sizes[0] != sizes[1]:
            message = f"{estimator} takes pairs, and there are {sizes[0]} positive and {sizes[1]} negative examples"
            self.complain(f"{message}: name as many of both, each beside its other side", *path, NEGATIVE)

    def check_apart(
        self,
        first: tuple[str, DataRef],
        second: tuple[str, DataRef],
        positions: Positions,
        path: tuple[KeyPart, ...],
        key: KeyPart,
    ) -> None:
        """Two classes have no text in common where they are read."""
        (label, one), (other_label, other) = first, second
        whole = {identity(example) for example in self.examples(other)}
        shared = [example for example in self.examples(one) if identity(example) in whole]
        if shared:
            both = f"{label} and {other_label} are both {one}; name other prompts here"
            self.complain(both if one == other else f"{one} and {other} {describe_shared(shared)}", *path, key)
            return
        # Where only prompts are read, two completions of one prompt are one text, twice.
        prompts = {_read_of(example) for example in self.examples(other) if example.completion is not None}
        alike = [
            example for example in self.examples(one) if example.completion is not None and _read_of(example) in prompts
        ]
        if alike and within_prompt(positions):
            message = f"{positions} are tokens of the prompt, and {one} and {other} differ in completions only"
            self.complain(f"{message}: {describe_shared(alike)}; write completion", *path, "positions")

    def check_turns(self, positions: Positions, ref: DataRef, *path: KeyPart) -> None:
        """Every example of a split has the turn that positions name."""
        if positions.role == BEHIND_INSTRUCTION and self.recipe.model.chat_template == "none":
            message = (
                f"'{positions}' are a chat template's tokens, and model.chat_template is none: name last, or an index"
            )
            self.complain(message, *path)
            return
        fault = lacking(positions, ref, self.examples(ref), self.shown)
        if fault is not None:
            self.complain(f"'{positions}': {fault}", *path)

    def check_known(self, direction: str, path: tuple[KeyPart, ...]) -> None:
        """There is such a direction."""
        known = [*self.recipe.directions, *self.recipe.search, *self.further]
        written = self.recipe.directions.get(direction)
        if written is not None and Positions.parse(written.positions).each:
            self.complain(
                f"direction {direction!r} has one for each of '{written.positions}': name a search that chooses one",
                *(*path, "direction"),
            )
        elif direction not in known and not (
            self.draft.lost("directions", direction) or self.draft.lost("search", direction)
        ):
            self.complain(
                f"unknown direction {direction!r}. {nearest(direction, known, 'direction')}", *path, "direction"
            )

    def direction_ranks(self, name: str) -> tuple[int, ...]:
        """How many vectors a direction may have at a site, as far as its estimator or its file tells beforehand.

        Several numbers where a search chooses among directions, or where sites differ; none where it isn't known.
        """
        if name in self.recipe.search:
            over = [self.direction_ranks(one) for one in self.recipe.search[name].directions if one != name]
            return tuple(rank for ranks in over for rank in ranks) if all(over) else ()
        direction = self.recipe.directions.get(name)
        if direction is not None and direction.file is not None:
            saved = self.saved_direction(name, direction)
            return saved.ranks if saved is not None else ()
        needs = None if direction is None else self.foreseen_needs(direction)
        return () if needs is None or needs.rank is None else (needs.rank,)

    def foreseen_needs(self, written: DirectionRecipe) -> EstimatorNeeds | None:
        """What the estimator of a direction must see; None where it can't be said, which is told where it stands."""
        if written.estimator not in self.catalog.names("estimator"):
            return None
        spec = self.catalog.get("estimator", written.estimator)
        try:
            return needs_of(spec, spec.options(**written.options))
        except (SteerkitError, ValueError):
            return None

    def direction_sites(self, name: str) -> tuple[Site, ...] | SitePattern | None:
        """Where a direction has vectors, as far as recipe, model and file tell; None where they don't."""
        direction = self.recipe.directions.get(name)
        if direction is None or self.draft.lost("directions", name, "site"):
            return None
        if direction.file is not None:
            own = self.saved_direction(name, direction)
            if own is not None and own.sites:
                return own.sites
        needs = None if direction.file is not None else self.foreseen_needs(direction)
        if needs is not None and needs.sites is not None:
            # Of several sites of its own it may take one.
            alone = parse_sites(needs.sites[0]) if len(needs.sites) == 1 else None
            return (alone,) if isinstance(alone, Site) else None
        if direction.site is None:
            return None
        written = parse_sites(direction.site)
        if isinstance(written, Site):
            return (written,)
        try:
            return written if self.model.n_layers is None else written.sites(self.model.n_layers)
        except SteerkitError:
            return None  # told where the direction stands


def _read_of(example: Example) -> tuple[str, str | None]:
    """What of an example is read before its completion."""
    return prompt_of(example), example.answer_prefix
