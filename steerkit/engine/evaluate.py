"""Run a model under a condition and score it: each pass is made once and shared by all evaluators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.api.intervention import Intervention
from steerkit.engine.chat import Rendered
from steerkit.engine.live import LiveModel
from steerkit.engine.passes import next_token_logits, sequence_logits
from steerkit.engine.progress import SILENT, Observer
from steerkit.errors import PluginError

_Scores: TypeAlias = dict[tuple[str, str], tuple[Score, ...]]

CHUNK = 256
"""Prompts whose next-token logits are held at once."""


@dataclass(frozen=True, eq=False)
class Job:
    """One evaluator on one data set.

    Args:
        name: as records call it.
        evaluator: the evaluator.
        needs: what it must see.
        data: key of its texts.
    """

    name: str
    evaluator: Evaluator
    needs: Needs
    data: str


@dataclass(frozen=True)
class SampleRequest:
    """Completions that a reader wants to see: of the first ``n`` texts of a data set."""

    data: str
    n: int
    max_new_tokens: int


@dataclass(frozen=True)
class ConditionScores:
    """What one condition gave.

    Args:
        scores: ``{(job name, data): one score per text}``.
        completions: ``{data: completions of its first texts}``.
    """

    scores: Mapping[tuple[str, str], tuple[Score, ...]]
    completions: Mapping[str, tuple[str, ...]]


@dataclass
class _Seen:
    """Unsteered outputs that steered ones are compared with."""

    logits: dict[str, Tensor] = field(default_factory=dict)
    completions: dict[str, list[list[int]]] = field(default_factory=dict)


class Evaluation:
    """Jobs over data sets, to be run under one condition after another.

    The baseline's outputs are computed once, when they are first needed.

    Args:
        live: the model.
        jobs: what to score.
        texts: ``{data: texts}``.
        samples: completions to keep for the reader.
        observer: told of each pass.
    """

    def __init__(
        self,
        live: LiveModel,
        jobs: Sequence[Job],
        texts: Mapping[str, Sequence[str]],
        samples: SampleRequest | None = None,
        observer: Observer = SILENT,
    ) -> None:
        self.live, self.jobs, self.texts, self.samples, self.observer = live, tuple(jobs), texts, samples, observer
        self._seen = _Seen()
        for job in self.jobs:
            _require_possible(job)

    def run(self, interventions: Sequence[Intervention] = (), *, samples: bool = True) -> ConditionScores:
        """Score every job under interventions (none: the baseline)."""
        scores: _Scores = {}
        completions: dict[str, tuple[str, ...]] = {}
        for data in dict.fromkeys(job.data for job in self.jobs):
            jobs = [job for job in self.jobs if job.data == data]
            self._prepare_baseline(data, jobs)
            with self.live.steer(*interventions):
                ids = self._complete(data, jobs, bool(interventions))
                scores.update(self._prompt_scores(data, jobs, ids, bool(interventions)))
                scores.update(self._sequence_scores(data, jobs))
            if ids is not None:
                completions[data] = tuple(self.live.decode(row) for row in ids)
        if samples and self.samples is not None:
            self._sample(self.samples, interventions, completions)
        for job in self.jobs:
            if len(scores[(job.name, job.data)]) != len(self.texts[job.data]):
                raise PluginError(
                    f"Evaluator {job.name!r} gave {len(scores[(job.name, job.data)])} scores for "
                    f"{len(self.texts[job.data])} examples of {job.data}; it must give one for each."
                )
        return ConditionScores(scores, completions)

    def _prepare_baseline(self, data: str, jobs: Sequence[Job]) -> None:
        seen, texts = self._seen, self.texts[data]
        if data not in seen.logits and any(job.needs.baseline and job.needs.next_token_logits for job in jobs):
            self.observer.step(f"baseline logits on {data}")
            seen.logits[data] = next_token_logits(self.live, texts, self.observer.progress)
        compared = any(job.needs.baseline or job.needs.baseline_completions for job in jobs)
        # As long as anybody asks for, so that the baseline condition takes its own from here.
        longest = _longest(jobs)
        if data not in seen.completions and compared and longest:
            self.observer.step(f"baseline completions on {data}")
            seen.completions[data] = self.live.complete(texts, max_new_tokens=longest, progress=self.observer.progress)

    def _prompt_scores(self, data: str, jobs: Sequence[Job], ids: list[list[int]] | None, steered: bool) -> _Scores:
        """Scores of what follows a prompt: its next-token logits, its completion, or both."""
        asking = [job for job in jobs if not job.needs.sequence_logits]
        found: dict[tuple[str, str], list[Score]] = {(job.name, data): [] for job in asking}
        with_logits = any(job.needs.next_token_logits for job in asking)
        kept = None if steered else self._seen.logits.get(data)
        if with_logits and kept is None:
            self.observer.step(f"next-token logits on {data}")
        texts = self.texts[data] if asking else ()
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            logits = kept[part] if kept is not None else None
            if with_logits and logits is None:
                logits = next_token_logits(self.live, texts[part], self.observer.progress)
            for job in asking:
                baseline = self._outputs(job, data, part, self._seen.logits.get(data), self._seen.completions.get(data))
                outputs = self._outputs(job, data, part, None, ids, baseline if job.needs.baseline else None)
                if job.needs.next_token_logits:
                    outputs = replace(outputs, next_token_logits=logits)
                found[(job.name, data)].extend(job.evaluator.score(outputs))
        return {key: tuple(value) for key, value in found.items()}

    def _outputs(
        self,
        job: Job,
        data: str,
        part: slice,
        logits: Tensor | None,
        ids: list[list[int]] | None,
        baseline: Outputs | None = None,
    ) -> Outputs:
        """What a job asked for, and nothing else, for some of the texts."""
        limit = job.needs.max_new_tokens
        return Outputs(
            self.texts[data][part],
            next_token_logits=logits[part] if logits is not None and job.needs.next_token_logits else None,
            completions=[self.live.decode(row[:limit]) for row in ids[part]] if ids is not None and limit else None,
            baseline=baseline,
        )

    def _complete(self, data: str, jobs: Sequence[Job], steered: bool) -> list[list[int]] | None:
        longest = _longest(job for job in jobs if not job.needs.baseline_completions)
        if not longest:
            return None
        kept = self._seen.completions.get(data)
        if kept is not None and not steered:
            return [row[:longest] for row in kept]
        self.observer.step(f"completions on {data}")
        return self.live.complete(self.texts[data], max_new_tokens=longest, progress=self.observer.progress)

    def _sequence_scores(self, data: str, jobs: Sequence[Job]) -> _Scores:
        found: _Scores = {}
        asking = [job for job in jobs if job.needs.sequence_logits]
        # Jobs that want the same texts, cut at the same length, share a pass.
        for wanted in dict.fromkeys(_texts_wanted(job) for job in asking):
            found.update(self._along(data, [job for job in asking if _texts_wanted(job) == wanted], *wanted))
        return found

    def _along(self, data: str, jobs: Sequence[Job], completion_tokens: int, limit: int) -> _Scores:
        self.observer.step(f"logits along {data}")
        texts = self.texts[data]
        if completion_tokens:
            rendered, skip = self._own_completions(data, completion_tokens)
        else:
            rendered, skip = [self.live.chat.render_text(text) for text in texts], [1] * len(texts)
        if limit:
            rendered = [Rendered(item.token_ids[:limit], None) for item in rendered]
        placed: dict[tuple[str, str], dict[int, Score]] = {(job.name, data): {} for job in jobs}
        for part in sequence_logits(self.live, rendered, skip):
            outputs = Outputs(
                [texts[index] for index in part.order],
                sequence_logits=part.logits,
                token_ids=part.token_ids,
                token_mask=part.token_mask,
            )
            for job in jobs:
                placed[(job.name, data)].update(zip(part.order, job.evaluator.score(outputs), strict=True))
        return {key: tuple(by_place[index] for index in sorted(by_place)) for key, by_place in placed.items()}

    def _own_completions(self, data: str, length: int) -> tuple[list[Rendered], list[int]]:
        prompts = [self.live.chat.render(text) for text in self.texts[data]]
        completions = self._seen.completions[data]
        rendered = [
            Rendered((*prompt.token_ids, *ids[:length]), prompt.instruction)
            for prompt, ids in zip(prompts, completions, strict=True)
        ]
        return rendered, [len(prompt.token_ids) for prompt in prompts]

    def _sample(
        self, wanted: SampleRequest, interventions: Sequence[Intervention], completions: dict[str, tuple[str, ...]]
    ) -> None:
        if wanted.data in completions:
            return  # an evaluator generated there; what is shown is then what was scored, at its length
        self.observer.step(f"completions to read on {wanted.data}")
        with self.live.steer(*interventions):
            ids = self.live.complete(self.texts[wanted.data][: wanted.n], max_new_tokens=wanted.max_new_tokens)
        completions[wanted.data] = tuple(self.live.decode(row) for row in ids)


def _texts_wanted(job: Job) -> tuple[int, int]:
    """Which texts a job reads: the baseline's completions of that many tokens (0: the data's own), and how far."""
    return (job.needs.max_new_tokens if job.needs.baseline_completions else 0, job.needs.max_text_tokens)


def _require_possible(job: Job) -> None:
    """Refuse needs that no pass meets, rather than leave them out without a word."""
    needs = job.needs
    after_prompt = needs.next_token_logits or (needs.max_new_tokens and not needs.baseline_completions)
    if needs.sequence_logits and (after_prompt or needs.baseline):
        raise PluginError(
            f"Evaluator {job.name!r} needs logits along texts together with outputs after a prompt or the baseline's "
            "logits; these come from different passes. Make it two evaluators."
        )
    if not needs.sequence_logits and not after_prompt:
        raise PluginError(f"Evaluator {job.name!r} needs no output at all, so there is nothing that it could score.")


def _longest(jobs: Iterable[Job]) -> int:
    return max((job.needs.max_new_tokens for job in jobs), default=0)
