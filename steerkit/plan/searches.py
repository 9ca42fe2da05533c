"""Section ``search``: candidates, what they are scored by, and the rule that takes one of them."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.errors import nearest
from steerkit.plan.measures import MeasureResolver
from steerkit.plan.names import KeyPart
from steerkit.plan.planned.conditions import PlannedIntervention
from steerkit.plan.types import CANDIDATE, PlannedDirection, PlannedScore, PlannedSearch
from steerkit.recipe.draft import OPTIONS, SCORE_KEYS
from steerkit.recipe.schema import CandidateScoreRecipe, SearchRecipe
from steerkit.recipe.steering import InterventionRecipe


class SearchResolver(MeasureResolver):
    """Resolves searches."""

    def search(self, name: str, written: SearchRecipe) -> PlannedSearch | None:
        """One search, or None where it has problems."""
        # Most recipes search nothing.
        from steerkit.selection import LAYER, NAN, Bound, LayerBound, Rule

        path, before = ("search", name), len(self.problems)
        for bound in written.subject_to:
            if bound in (NAN, LAYER):
                self.complain(
                    f"a bound can't be called {bound!r}, which means something else", *path, "subject_to", bound
                )
        if name in self.recipe.directions:
            self.complain(f"a direction is called {name!r} too; give the search another name", *path)
        for direction in written.directions:
            self.check_searched(direction, (*path, "over"))
        if len(set(written.directions)) != len(written.directions):
            self.complain("one direction stands here twice", *path, "over")
        scores = [self.candidate_score(score, item, (*path, "scores", score)) for score, item in written.scores.items()]
        goal = "minimise" if written.minimise is not None else "maximise"
        for at, aim in enumerate(written.aims):
            self.check_score(aim, written, (*path, goal) if len(written.aims) == 1 else (*path, goal, at))
        if len(set(written.aims)) != len(written.aims):
            self.complain("one score stands here twice", *path, goal)
        for bound, item in written.subject_to.items():
            self.check_score(item.score, written, (*path, "subject_to", bound, "score"))
            self.check_room(item.at_least, item.at_most, (*path, "subject_to", bound))
        spoken_of = {*written.aims, *(item.score for item in written.subject_to.values())}
        for score in written.scores:
            if score not in spoken_of:
                self.complain(f"the search neither bounds {score!r} nor aims at it; remove it", *path, "scores", score)
        self.check_coefficients(written, scores, path)
        if not any(written.scores[aim].under for aim in written.aims if aim in written.scores):
            self.notes.append(
                f"Search {name!r} aims at what is scored under no intervention, which is the same for all candidates."
            )
        if len(self.problems) > before:
            return None
        bounds = tuple(
            Bound(bound, item.score, item.at_least, item.at_most, item.strict)
            for bound, item in written.subject_to.items()
        )
        layers = None if written.layers_below is None else LayerBound(written.layers_below)
        objective, *plus = written.aims
        rule = Rule(objective, bounds, layers, maximise=written.maximise is not None, plus=tuple(plus))
        given = tuple(filter(None, scores))
        return PlannedSearch(name, written.directions, given, rule, written.exhaustive, written.coefficients or ())

    def check_room(self, at_least: float | None, at_most: float | None, path: tuple[KeyPart, ...]) -> None:
        """Some score lies within both bounds."""
        if any(self.draft.lost(*path, key) for key in ("at_least", "at_most")):
            return
        if at_least is not None and at_most is not None and at_least > at_most:
            what = f"no score is at least {at_least:g} and at most {at_most:g}"
            self.complain(f"{what}; leave out one of them, or change their numbers", *path)

    def check_coefficients(
        self, written: SearchRecipe, scores: Sequence[PlannedScore | None], path: tuple[KeyPart, ...]
    ) -> None:
        """Coefficients tell some score's candidates apart, and stand in one place."""
        if written.coefficients is None:
            return
        found = [score for score in scores if score is not None]
        if len(found) == len(scores) and not any(score.varies for score in found):
            self.complain(
                "no score is taken under an intervention that adds, such as add, so candidates don't differ in "
                "coefficients; leave them out",
                *(*path, "coefficients"),
            )
        for name, score in written.scores.items():
            for at, item in enumerate(score.under):
                option = self.additive(item)
                if option in item.options:
                    where = ("scores", name, "under", at, OPTIONS, option)
                    self.complain("coefficients are the candidates' here; leave this one out", *path, *where)

    def additive(self, item: InterventionRecipe) -> str:
        """The option of an intervention that candidates' coefficients are for; empty where there is none."""
        known = item.plugin in self.catalog.names("intervention")
        return self.catalog.get("intervention", item.plugin).additive if known else ""

    def check_searched(self, direction: str, path: tuple[KeyPart, ...]) -> None:
        """There is such a direction, and it is estimated, at whole streams."""
        known = self.recipe.directions
        if direction not in known:
            if not self.draft.lost("directions", direction):
                self.complain(f"unknown direction {direction!r}. {nearest(direction, known, 'direction')}", *path)
        elif known[direction].file is not None:
            self.complain(f"direction {direction!r} is from a file; candidates are estimated here", *path)

    def check_score(self, score: str, written: SearchRecipe, path: tuple[KeyPart, ...]) -> None:
        """There is such a score."""
        if score not in written.scores and not self.draft.lost(*path[:2], "scores"):
            self.complain(f"unknown score {score!r}. {nearest(score, written.scores, 'score')}", *path)

    def candidate_score(
        self, name: str, written: CandidateScoreRecipe, path: tuple[KeyPart, ...]
    ) -> PlannedScore | None:
        """One score, or None where it has problems."""
        before = len(self.problems)
        ref = self.ref(written.data, *path, "data")
        self.measure(ref, *path, "data")
        spec = self.spec("evaluator", written.plugin, *path)
        options = self.options(spec, written.options, *path, OPTIONS, beside=(*SCORE_KEYS, OPTIONS)) if spec else None
        needs = self.needs(spec, options, path) if spec is not None and options is not None else None
        if spec is not None and spec.values:
            self.complain(f"{spec.name} gives several values; a search takes an evaluator of one", *path)
        if ref is not None and needs is not None and (needs.next_token_logits or needs.max_new_tokens):
            self.check_open(ref, *path, "data")
        if needs is not None and (needs.monitors or needs.calls):
            what = "readings of monitors" if needs.monitors else "answers from outside"
            self.complain(f"{written.plugin} scores {what}, which a search has none of", *path)
        references = self.references(needs, written.options, path) if needs is not None else ()
        if needs is not None and ref is not None:
            self.check_read(needs, [ref, *(other for _, other in references)], written.options, path)
        if options is not None:
            self.answer_tokens(options, path)
        under = [self.along_candidate(item, (*path, "under", at)) for at, item in enumerate(written.under)]
        if spec is None or options is None or needs is None or ref is None or len(self.problems) > before:
            return None
        steering = tuple(one for one in under if one is not None)
        return PlannedScore(name, spec, options, needs, ref, steering, references)

    def along_candidate(self, item: InterventionRecipe, path: tuple[KeyPart, ...]) -> PlannedIntervention | None:
        """An intervention along whatever candidate is scored."""
        if item.directions:
            self.complain("it goes along the candidate; leave direction out", *path, "direction")
            return None
        if item.gate is not None:
            self.complain("a candidate is scored without a gate; remove it", *path, "gate")
            return None
        return self.intervention(item, {}, *path, along=CANDIDATE)

    def check_candidates(self, directions: Sequence[PlannedDirection], searches: Sequence[PlannedSearch]) -> None:
        """Directions at several positions are chosen among, and by nothing that is reported on."""
        searched = {name for one in self.recipe.search.values() for name in one.directions}
        for item in directions:
            each = item.positions is not None and item.positions.each
            if each and item.name not in searched and not self.draft.lost_within("search"):
                self.complain(
                    f"'{item.positions}' are several positions, each with a direction of its own, and no search "
                    "chooses one of them: add section `search`, or leave out [*]",
                    *("directions", item.name, "positions"),
                )
        chosen_by = {score.data: one.name for one in searches for score in one.scores}
        for index, evaluation in enumerate(self.recipe.evaluate):
            for at, text in enumerate(evaluation.data):
                ref = self.ref(text, "evaluate", index, "data", at)
                if ref in chosen_by:
                    self.notes.append(
                        f"{evaluation.name} is measured on {ref}, by which search {chosen_by[ref]!r} chooses: not held "
                        "out."
                    )
