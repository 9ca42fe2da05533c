"""Section ``suffixes``: what texts behind the user's turn do to a direction, its heads and their attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from steerkit.errors import counted
from steerkit.plan.conditions import are_several, held_at
from steerkit.plan.cost import Meter, Part
from steerkit.plan.reporting import ReportResolver
from steerkit.plan.types import as_text
from steerkit.recipe.data import DataRef
from steerkit.recipe.joined import with_suffix
from steerkit.recipe.rows import Faults
from steerkit.recipe.studies import SuffixesRecipe
from steerkit.recipe.texts import read_texts
from steerkit.sharing import Pass
from steerkit.types import HEAD_OUT


@dataclass(frozen=True)
class PlannedSuffixes:
    """A study of suffixes. Nothing is steered in it.

    Args:
        name: as the recipe calls it.
        direction: name of a direction of one vector at one site.
        prompts: what suffixes are put behind.
        reference: prompts to compare with, or None.
        suffixes: the texts.
        random: how many random texts of as many tokens stand beside each.
        n: how many prompts of each, from the start; None: all.
        heads: how many heads are shown; none are looked at where it is 0.
    """

    name: str
    direction: str
    prompts: DataRef
    reference: DataRef | None
    suffixes: tuple[str, ...]
    random: int = 1
    n: int | None = None
    heads: int = 8

    def to_json(self) -> dict[str, Any]:
        """As a recipe writes it, with its name."""
        return {
            "name": self.name,
            "direction": self.direction,
            "prompts": str(self.prompts),
            "reference": as_text(self.reference),
            "suffixes": list(self.suffixes),
            "random": self.random,
            "n": self.n,
            "heads": self.heads,
        }


class SuffixResolver(ReportResolver):
    """Resolves studies of suffixes."""

    def suffixes(self, name: str, written: SuffixesRecipe) -> PlannedSuffixes | None:
        """One study, or None where it has problems."""
        path, before = ("suffixes", name), len(self.problems)
        self.check_known(written.direction, path)
        self.check_studied(written.direction, path)
        found: list[DataRef | None] = []
        for key in ("prompts", "reference"):
            text = getattr(written, key)
            ref = None if text is None else self.ref(text, *path, key)
            found.append(ref)
            if ref is None:
                continue
            self.measure(ref, *path, key)
            self.check_open(ref, *path, key)
            there = len(self.examples(ref))
            if written.n is not None and 0 < there < written.n:
                self.complain(f"asks for {counted(written.n, 'prompt')}; {ref} has {there}", *path, "n")
        prompts, reference = found
        suffixes = self.texts(written, path)
        if prompts is not None and prompts == reference:
            self.complain(f"{prompts} can't be compared with itself; name others, or leave it out", *path, "reference")
        if prompts is None or len(self.problems) > before:
            return None
        return PlannedSuffixes(
            name,
            written.direction,
            prompts,
            reference,
            suffixes,
            written.random,
            written.n,
            written.heads,
        )

    def texts(self, written: SuffixesRecipe, path: tuple[str, ...]) -> tuple[str, ...]:
        """The suffixes, as they are listed or as their file has them."""
        if written.suffixes_file is None:
            listed = written.suffixes or ()
            for at, suffix in enumerate(listed):
                if not suffix.strip():
                    self.complain("a suffix of spaces says nothing; write a text", *path, "suffixes", at)
                elif suffix in listed[:at]:
                    self.complain(f"{suffix!r} stands here twice; leave one out", *path, "suffixes", at)
            return listed
        within = (*path, "suffixes_file")
        if self.draft.lost(*within, "file"):
            return ()
        try:
            return read_texts(self.draft, written.suffixes_file, doubtful=self.draft.lost_within(*within))
        except Faults as faults:
            for message, _ in faults.messages:
                self.complain(message, *within, "file")
            return ()

    def check_studied(self, direction: str, path: tuple[str, ...]) -> None:
        """A study is of one vector of the stream, as far as that is known."""
        own = self.direction_sites(direction)
        if own is not None and are_several(own):
            message = f"of direction {direction!r} {held_at(own)}, and a study is of one: name a search that chooses it"
            self.complain(message, *path, "direction")
        elif own is not None and (own[0] if isinstance(own, tuple) else own).stream == HEAD_OUT:
            self.complain(f"direction {direction!r} lies in heads, not in the stream", *path, "direction")
        rank = min(self.direction_ranks(direction), default=None)
        if rank is not None and rank > 1:
            self.complain(
                f"direction {direction!r} has {counted(rank, 'vector')}, and a study is of one", *path, "direction"
            )


def meter_suffixes(meter: Meter, studies: Iterable[PlannedSuffixes]) -> None:
    """Every prompt once by itself and once with each suffix, given or random; for attention once more, one by one."""
    for study in studies:
        plain = [study.prompts] if study.reference is None else [study.prompts, study.reference]
        groups = [meter.lengths(ref)[: study.n] for ref in plain]
        examples = meter.data[study.prompts.dataset][study.prompts.split][: study.n]
        for suffix in study.suffixes:
            lengths = meter.counter.count([with_suffix(one, suffix) for one in examples], "prompt")
            groups += [lengths] * (1 + study.random)
        for lengths in groups:
            meter.add(Part.SUFFIXES, Pass(tuple(lengths)))
            for length in lengths if study.heads else ():
                meter.add(Part.SUFFIXES, Pass((length,)))
