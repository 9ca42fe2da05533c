"""Run a model under conditions and score it: each pass is made once and shared by all evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from steerkit.api.intervention import Placement
from steerkit.api.monitor import Monitor
from steerkit.engine.lowering.edits import Mode
from steerkit.engine.measuring.along import score_along
from steerkit.engine.measuring.asking import Kept
from steerkit.engine.measuring.jobs import (
    BASELINE,
    BY_ITSELF,
    ConditionScores,
    Job,
    Member,
    SampleRequest,
    Steered,
    require_possible,
)
from steerkit.engine.measuring.prompting import (
    complete,
    generate,
    keep_completions,
    lengths_of,
    prepare_baseline,
    score_prompts,
)
from steerkit.engine.measuring.setting import Setting
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.monitors import behind, read_along, require_fits
from steerkit.engine.runtime.runtime import Runtime
from steerkit.progress import SILENT, Observer
from steerkit.sharing import Pass, greedy_tokens, group_sizes, passes_over, reading, sample_passes
from steerkit.types import ExampleLike, as_examples

IDLE: Final = "its interventions do nothing, as with coefficient 0, so it is the baseline."

__all__ = ["ConditionScores", "Evaluation", "Job", "SampleRequest", "Steered"]


class Evaluation:
    """Jobs over data sets, to be run under one condition after another, or under several at once.

    The baseline's outputs are computed once, when they are first needed.

    Args:
        live: the model.
        jobs: what to score.
        examples: ``{data: examples}``; texts and lists of messages are read as such.
        samples: completions to keep for the reader.
        observer: told of each pass.
        seed: of sampled completions.
        kept: answers of what evaluators asked before.
    """

    def __init__(
        self,
        live: Runtime,
        jobs: Sequence[Job],
        examples: Mapping[str, Sequence[ExampleLike]],
        samples: SampleRequest | None = None,
        observer: Observer = SILENT,
        *,
        seed: int = 0,
        kept: Kept | None = None,
    ) -> None:
        self.live, self.jobs, self.samples = live, tuple(jobs), samples
        rows = {data: as_examples(list(listed)) for data, listed in examples.items()}
        self.setting = Setting(live, rows, observer, seed, kept)
        self._baseline: dict[bool, ConditionScores] = {}
        for job in self.jobs:
            require_possible(job)

    def monitor(self, monitors: Sequence[Monitor]) -> None:
        """Say which monitors read: along what evaluators that ask for it see, and along completions for the reader.

        Raises:
            SiteError, AttachError: for a monitor that doesn't fit the model.
        """
        require_fits(monitors, self.live.layout)
        self.setting.monitors = tuple(monitors)
        self.setting.plain.read.clear()
        self._baseline.clear()

    def run(
        self, condition: Steered | Sequence[Placement] = (), *, samples: bool = True, name: str = ""
    ) -> ConditionScores:
        """Score every job under a condition (an empty one is the baseline)."""
        return self.run_many([condition], samples=samples, names=[name])[0]

    def run_many(
        self,
        conditions: Sequence[Steered | Sequence[Placement]],
        *,
        samples: bool = True,
        names: Sequence[str] = (),
    ) -> list[ConditionScores]:
        """Score every job under each of several conditions, which share batches where all their rows fit into one.

        A condition gives what it would give alone, within float tolerance: about 1e-5 in float32, also in
        mixture-of-experts models, where other rows change the shapes of the experts' products. One whose
        interventions do nothing, as with coefficient 0, is given the baseline's own outputs, so that it differs from
        it by exactly nothing.

        Args:
            conditions: interventions of each, perhaps with a system prompt and a mode. One that comes alone is lowered
                as ``steer`` does for as many tokens as a pass has, so it may be folded; several that share a batch are
                hooked. Those of other system prompts share no batch, nor do those in mode ``fold`` or ``interpret``.
            samples: whether to make the completions for the reader.
            names: what sampled completions are drawn by; places in the list where none are given.
        """
        given = [one if isinstance(one, Steered) else Steered(tuple(one)) for one in conditions]
        called = list(names) or [str(place) for place in range(len(given))]
        together: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(given):
            if self.setting.acts(one):
                alone = place if one.mode in BY_ITSELF else None
                together.setdefault((one.system_prompt, one.mode, alone), []).append(place)
        scores: dict[int, ConditionScores] = {}
        for places in together.values():
            members = [Member(given[place], called[place]) for place in places]
            self._run(members, samples)
            scores.update((place, member.finished()) for place, member in zip(places, members, strict=True))
        if len(scores) < len(given) and samples not in self._baseline:
            plain = Member(Steered(), BASELINE)
            self._run([plain], samples)
            self._baseline[samples] = plain.finished()
        return [scores[place] if place in scores else self._plain(one, samples) for place, one in enumerate(given)]

    def _plain(self, under: Steered, samples: bool) -> ConditionScores:
        """The baseline's own outputs, with a word where they stand for interventions that do nothing."""
        plain = self._baseline[samples]
        return replace(plain, notes=(*plain.notes, IDLE)) if under.placements else plain

    def _run(self, members: Sequence[Member], samples: bool) -> None:
        """Score every job under conditions of one system prompt and one mode."""
        data_sets = {job.data: [one for one in self.jobs if one.data == job.data] for job in self.jobs}
        for data, jobs in data_sets.items():
            prepare_baseline(self.setting, data, jobs)
            complete(self.setting, members, data, jobs)
            score_prompts(self.setting, members, data, jobs)
            self._sequence_scores(members, data, jobs)
        if samples and self.samples is not None:
            self._sample(members, self.samples)

    def _sequence_scores(self, members: Sequence[Member], data: str, jobs: Sequence[Job]) -> None:
        score_along(self.setting, members, data, jobs)

    def _sample(self, members: Sequence[Member], wanted: SampleRequest) -> None:
        prompts = self.prompts(wanted.data, members[0].system_prompt)[: wanted.n]
        # Where an evaluator generated, what is shown is what was scored, at its length.
        if wanted.data not in members[0].ids:
            self.setting.observer.step(f"completions to read on {wanted.data}")
            generate(self.setting, members, wanted.data, prompts, wanted.max_new_tokens)
            keep_completions(self.setting, members, wanted.data)
        if self.setting.monitors:
            self._read_samples(members, wanted, prompts)

    def _read_samples(self, members: Sequence[Member], wanted: SampleRequest, prompts: list[Rendered]) -> None:
        self.setting.observer.step(f"readings of completions to read on {wanted.data}")
        one, n = reading(lengths_of(prompts), self._shown_tokens(wanted)), len(prompts)
        for part in self.setting.parts(members, one):
            texts = [
                behind(prompt, ids)
                for member in part
                for prompt, ids in zip(prompts, member.ids[wanted.data][:n], strict=True)
            ]
            with self.setting.steering(part, one, wanted.data) as steer:
                read = read_along(self.live, texts, self.setting.monitors, steer=steer)
            for place, member in enumerate(part):
                member.readings[wanted.data] = [row.readings for row in read[place * n : (place + 1) * n]]

    def _shown_tokens(self, wanted: SampleRequest) -> int:
        return self._written_tokens(wanted.data) or wanted.max_new_tokens

    def _written_tokens(self, data: str) -> int:
        """The length of completions that evaluators have on a data set; 0 where there are none."""
        return max((greedy_tokens(job.needs) for job in self.jobs if job.data == data), default=0)

    # Which conditions share what

    def group_sizes(
        self, conditions: int, *, samples: bool = True, system_prompt: str | None = None, mode: Mode = "auto"
    ) -> list[int]:
        """In groups of what sizes so many conditions of one system prompt and mode are best run.

        It depends on texts and budget only.
        """
        if mode in BY_ITSELF:
            return [1] * conditions
        return group_sizes(self.passes(samples, system_prompt), conditions, self.live.batch_tokens)

    def expected_tokens(self, *, samples: bool = True, system_prompt: str | None = None) -> int:
        """How many tokens the largest pass of one condition has, at most: what a condition alone is lowered for."""
        return max((one.tokens for one in self.passes(samples, system_prompt)), default=0)

    def prompts(self, data: str, system_prompt: str | None = None) -> list[Rendered]:
        """The prompts of a data set, with a condition's system prompt where it has one; they are rendered once."""
        return self.setting.prompts(data, system_prompt)

    def raw_texts(self, system_prompt: str | None = None) -> list[Rendered]:
        """What is read along: texts by themselves, completions behind their prompts, whole conversations."""
        read = {job.data for job in self.jobs if job.needs.sequence_logits and not job.needs.baseline_completions}
        return [text for data in sorted(read) for text in self.setting.raw_texts(data, system_prompt)]

    def passes(self, samples: bool, system_prompt: str | None = None) -> list[Pass]:
        """The passes of a condition that isn't the baseline."""
        found: list[Pass] = []
        for data in dict.fromkeys(job.data for job in self.jobs):
            needs = [job.needs for job in self.jobs if job.data == data]
            prompts = lengths_of(self.prompts(data, system_prompt))
            found += passes_over(needs, prompts, partial(self._text_lengths, data, system_prompt))
        if samples and self.samples is not None:
            wanted = self.samples
            prompts = lengths_of(self.prompts(wanted.data, system_prompt)[: wanted.n])
            written, monitored = self._written_tokens(wanted.data), bool(self.setting.monitors)
            found += sample_passes(prompts, wanted.max_new_tokens, written, monitored=monitored)
        return found

    def _text_lengths(self, data: str, system_prompt: str | None) -> list[int]:
        return lengths_of(self.setting.raw_texts(data, system_prompt))
