"""Run a model under conditions and score it: each pass is made once and shared by all evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steerkit.api.intervention import Placement
from steerkit.api.monitor import Monitor, Readings
from steerkit.engine.measuring.along import score_along
from steerkit.engine.measuring.asking import Kept
from steerkit.engine.measuring.jobs import (
    BASELINE,
    Activity,
    Completions,
    ConditionScores,
    Job,
    Member,
    SampleRequest,
    Steered,
    require_possible,
)
from steerkit.engine.measuring.prompting import (
    complete_for_members,
    generate_for_members,
    keep_completions,
    lengths_of,
    prepare_baseline,
    score_prompts,
)
from steerkit.engine.measuring.setting import Plain, Setting
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.monitors import completion_to_read, read_along, require_monitors_fit
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.runtime.runtime import Runtime
from steerkit.progress import SILENT, Observer
from steerkit.sharing import BY_ITSELF, CHUNK, greedy_tokens, reading
from steerkit.types import ExampleLike, as_examples

__all__ = ["ConditionScores", "Evaluation", "Job", "Plain", "SampleRequest", "Steered"]


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
        plain: outputs of the baseline that are there already.
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
        plain: Plain | None = None,
    ) -> None:
        self.live, self.jobs, self.samples = live, tuple(jobs), samples
        rows = {data: as_examples(list(listed)) for data, listed in examples.items()}
        self.setting = Setting(live, rows, observer, seed, kept, plain=plain or Plain())
        for job in self.jobs:
            require_possible(job)

    def monitor(self, monitors: Sequence[Monitor]) -> None:
        """Say which monitors read: along what evaluators that ask for it see, and along completions for the reader.

        Raises:
            SiteError, AttachError: for a monitor that doesn't fit the model.
        """
        require_monitors_fit(monitors, self.live.layout)
        self.setting.monitors = tuple(monitors)
        self.setting.plain.read.clear()

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
        known: Mapping[str, Sequence[Completions]] | None = None,
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
            known: ``{data: greedy completions of each condition}`` that are there already.
        """
        scores: dict[int, ConditionScores] = {}
        for places, members, idle in self._members(conditions, names):
            own = {data: [rows[place] for place in places] for data, rows in (known or {}).items()}
            self._run(members, samples, own)
            scores.update(
                (place, replace(member.finished(), idle=idle)) for place, member in zip(places, members, strict=True)
            )
        return [scores[place] for place in range(len(conditions))]

    def complete(
        self, conditions: Sequence[Steered | Sequence[Placement]], data: str, new_tokens: int
    ) -> list[tuple[Completions, Activity]]:
        """Token ids of greedy completions of a data set under each of several conditions, which share batches as in
        ``run_many``, with how many tokens were edited by what doesn't act everywhere."""
        written: dict[int, tuple[Completions, Activity]] = {}
        for places, members, _ in self._members(conditions):
            prompts = self.prompts(data, members[0].system_prompt)
            generate_for_members(self.setting, members, data, prompts, new_tokens)
            written.update(
                (place, (member.ids[data], member.activity)) for place, member in zip(places, members, strict=True)
            )
        return [written[place] for place in range(len(conditions))]

    def reference(self, data: str) -> Tensor:
        """Next-token logits of the model as it is, ``[n, vocab]``, from the batches that a condition would have."""
        prompts, progress = self.prompts(data), self.setting.observer.progress
        chunks = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
        return torch.cat([next_token_logits(self.live, chunk, progress) for chunk in chunks])

    def read(
        self, condition: Steered, data: str, completions: Completions, new_tokens: int
    ) -> tuple[list[Mapping[str, Readings]], Activity]:
        """What monitors read along the first prompts of a data set and completions of at most that many tokens."""
        ((_, (member,), _),) = self._members([condition])
        member.ids[data] = completions
        wanted = SampleRequest(data, len(completions), new_tokens)
        self._read_samples([member], wanted, self.prompts(data, condition.system_prompt)[: len(completions)])
        return list(member.readings[data]), member.activity

    def _members(
        self, conditions: Sequence[Steered | Sequence[Placement]], names: Sequence[str] = ()
    ) -> list[tuple[list[int], list[Member], bool]]:
        """Conditions by their places, those together that may share a batch, and whether they do nothing."""
        given = [one if isinstance(one, Steered) else Steered(tuple(one)) for one in conditions]
        called = list(names) or [str(place) for place in range(len(given))]
        together: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(given):
            alone = place if one.mode in BY_ITSELF or not self.setting.acts(one) else None
            together.setdefault((one.system_prompt, one.mode, alone), []).append(place)
        grouped = []
        for places in together.values():
            acts = self.setting.acts(given[places[0]])
            members = [Member(given[place], called[place]) if acts else Member(Steered(), BASELINE) for place in places]
            grouped.append((places, members, not acts and bool(given[places[0]].placements)))
        return grouped

    def _run(self, members: Sequence[Member], samples: bool, known: Mapping[str, Sequence[Completions]]) -> None:
        """Score every job under conditions of one system prompt and one mode."""
        data_sets = {job.data: [one for one in self.jobs if one.data == job.data] for job in self.jobs}
        for data, jobs in data_sets.items():
            prepare_baseline(self.setting, data, jobs)
            complete_for_members(self.setting, members, data, jobs, known.get(data))
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
            generate_for_members(self.setting, members, wanted.data, prompts, wanted.max_new_tokens)
            keep_completions(self.setting, members, wanted.data)
        if self.setting.monitors:
            self._read_samples(members, wanted, prompts)

    def _read_samples(self, members: Sequence[Member], wanted: SampleRequest, prompts: list[Rendered]) -> None:
        self.setting.observer.step(f"readings of completions to read on {wanted.data}")
        one, n = reading(lengths_of(prompts), self._shown_tokens(wanted)), len(prompts)
        for part in self.setting.parts(members, one):
            texts = [
                completion_to_read(prompt, ids)
                for member in part
                for prompt, ids in zip(prompts, member.ids[wanted.data][:n], strict=True)
            ]
            with self.setting.steering(part, one, wanted.data) as steer:
                read = read_along(self.live, texts, self.setting.monitors, steer=steer, lenient=True)
            for place, member in enumerate(part):
                member.readings[wanted.data] = [row.readings for row in read[place * n : (place + 1) * n]]

    def _shown_tokens(self, wanted: SampleRequest) -> int:
        return self._written_tokens(wanted.data) or wanted.max_new_tokens

    def _written_tokens(self, data: str) -> int:
        """The length of completions that evaluators have on a data set; 0 where there are none."""
        return max((greedy_tokens(job.needs) for job in self.jobs if job.data == data), default=0)

    def prompts(self, data: str, system_prompt: str | None = None) -> list[Rendered]:
        """The prompts of a data set, with a condition's system prompt where it has one; they are rendered once."""
        return self.setting.prompts(data, system_prompt)

    def raw_texts(self, system_prompt: str | None = None) -> list[Rendered]:
        """What is read along: texts by themselves, completions behind their prompts, whole conversations."""
        read = {job.data for job in self.jobs if job.needs.sequence_logits and not job.needs.baseline_completions}
        return [text for data in sorted(read) for text in self.setting.raw_texts(data, system_prompt)]
