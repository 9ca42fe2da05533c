"""Run a model under conditions and score it: each pass is made once and shared by all evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.api.intervention import Intervention
from steerkit.engine.lowering.edits import Condition
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.passes import SequenceLogits, next_token_logits, sequence_logits
from steerkit.engine.runtime.runtime import Runtime
from steerkit.errors import PluginError
from steerkit.progress import SILENT, Observer
from steerkit.sharing import CHUNK, Pass, along, compares_completions, completing, evenly, texts_wanted

_Interventions: TypeAlias = Sequence[Intervention]
_Completions: TypeAlias = list[list[int]]


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
class Seen:
    """Unsteered outputs that steered ones are compared with: ``{data: [n, vocab]}`` and ``{data: token ids}``."""

    logits: dict[str, Tensor] = field(default_factory=dict)
    completions: dict[str, _Completions] = field(default_factory=dict)


@dataclass(eq=False)
class _Member:
    """One of the conditions that are run together, with what it gave so far.

    Args:
        interventions: its.
        steered: whether they are active already, so that passes needn't see to it.
        ids: completions on the data set at hand, or None.
        scores: ``{(job name, data): {place of the text: score}}``.
        completions: ``{data: completions}``.
    """

    interventions: _Interventions
    steered: bool = False
    ids: _Completions | None = None
    scores: dict[tuple[str, str], dict[int, Score]] = field(default_factory=dict)
    completions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, job: Job, places: Sequence[int], outputs: Outputs) -> None:
        """Let a job score outputs of the texts at these places."""
        scores = job.evaluator.score(outputs)
        if len(scores) != len(places):
            raise PluginError(
                f"Evaluator {job.name!r} gave {len(scores)} scores for {len(places)} examples of {job.data}; "
                "it must give one for each."
            )
        self.scores.setdefault((job.name, job.data), {}).update(zip(places, scores, strict=True))

    def finished(self) -> ConditionScores:
        """All that it gave, in the order of the texts."""
        scores = {key: tuple(found[place] for place in sorted(found)) for key, found in self.scores.items()}
        return ConditionScores(scores, self.completions)


class Evaluation:
    """Jobs over data sets, to be run under one condition after another, or under several at once.

    The baseline's outputs are computed once, when they are first needed.

    Args:
        live: the model.
        jobs: what to score.
        texts: ``{data: texts}``.
        samples: completions to keep for the reader.
        observer: told of each pass.
        seen: outputs of the baseline that are there already.
    """

    def __init__(
        self,
        live: Runtime,
        jobs: Sequence[Job],
        texts: Mapping[str, Sequence[str]],
        samples: SampleRequest | None = None,
        observer: Observer = SILENT,
        seen: Seen | None = None,
    ) -> None:
        self.live, self.jobs, self.texts, self.samples, self.observer = live, tuple(jobs), texts, samples, observer
        self._seen = seen or Seen()
        self._rendered: dict[tuple[str, bool], list[Rendered]] = {}
        for job in self.jobs:
            _require_possible(job)

    def run(self, interventions: _Interventions = (), *, samples: bool = True) -> ConditionScores:
        """Score every job under interventions (none: the baseline)."""
        return self.run_many([interventions], samples=samples)[0]

    def run_many(
        self,
        conditions: Sequence[_Interventions],
        *,
        samples: bool = True,
        known: Mapping[str, Sequence[_Completions]] | None = None,
    ) -> list[ConditionScores]:
        """Score every job under each of several conditions, which share batches where all their rows fit into one.

        A condition gives what it would give alone, within float tolerance: about 1e-5 in float32, also in
        mixture-of-experts models, where other rows change the shapes of the experts' products.

        Args:
            conditions: interventions of each. One that comes alone is lowered as ``steer`` does for as many tokens
                as it will see, so it may be folded; several that share a batch are hooked.
            samples: whether to make the completions for the reader.
            known: ``{data: completions of each condition}`` that are there already. Then nothing is written, and each
                pass is lowered for its own tokens, whatever else there is to score.
        """
        members = [_Member(tuple(one)) for one in conditions]
        data_sets = {job.data: [one for one in self.jobs if one.data == job.data] for job in self.jobs}
        for data, jobs in data_sets.items():
            self._prepare_baseline(data, jobs)
        wanted = self.samples if samples else None
        with nullcontext() if known is not None else self._alone(members, wanted is not None):
            for data, jobs in data_sets.items():
                self._complete(members, data, jobs, known)
                self._prompt_scores(members, data, jobs)
                self._sequence_scores(members, data, jobs)
            if wanted is not None:
                self._sample(members, wanted)
        return [member.finished() for member in members]

    # Which conditions share what

    def expected_tokens(self, *, samples: bool = True) -> int:
        """How many tokens pass through the model under one condition, at most."""
        return sum(one.tokens for one in self._passes(samples))

    def prompts(self, data: str) -> list[Rendered]:
        """The prompts of a data set; they are rendered once."""
        return self._render(data, raw=False)

    def raw_texts(self) -> list[Rendered]:
        """The texts that are read as they are, with no prompt around them."""
        read = {job.data for job in self.jobs if job.needs.sequence_logits and not job.needs.baseline_completions}
        return [text for data in sorted(read) for text in self._render(data, raw=True)]

    def _render(self, data: str, *, raw: bool) -> list[Rendered]:
        key = (data, raw)
        if key not in self._rendered:
            render = self.live.chat.render_text if raw else self.live.chat.render
            self._rendered[key] = [render(text) for text in self.texts[data]]
        return self._rendered[key]

    def _passes(self, samples: bool) -> list[Pass]:
        """The passes of a condition that isn't the baseline."""
        found: list[Pass] = []
        generated = set()
        for data in dict.fromkeys(job.data for job in self.jobs):
            needs = [job.needs for job in self.jobs if job.data == data]
            passes = self._passes_over(data, needs)
            generated |= {data} if any(one.new_tokens for one in passes) else set()
            found += passes
        if samples and self.samples is not None and self.samples.data not in generated:
            wanted = self.samples
            found.append(completing(_lengths(self.prompts(wanted.data)[: wanted.n]), wanted.max_new_tokens))
        return found

    def _passes_over(self, data: str, needs: Sequence[Needs]) -> list[Pass]:
        prompts = _lengths(self.prompts(data))
        longest = max((need.max_new_tokens for need in needs if not need.baseline_completions), default=0)
        found = [completing(prompts, longest)] if longest else []
        if any(need.next_token_logits and not need.sequence_logits for need in needs):
            found.append(Pass(tuple(prompts), most_rows=CHUNK))
        for length, limit in dict.fromkeys(texts_wanted(need) for need in needs if need.sequence_logits):
            read = [n + length for n in prompts] if length else _lengths(self._render(data, raw=True))
            found.append(along(read, limit))
        return found

    @contextmanager
    def _alone(self, members: Sequence[_Member], samples: bool) -> Iterator[None]:
        """A single condition is put on once for all its passes."""
        if len(members) > 1 or not members[0].interventions:
            yield
            return
        with self.live.steer(*members[0].interventions, expected_tokens=self.expected_tokens(samples=samples)):
            members[0].steered = True
            yield

    def _parts(self, members: Sequence[_Member], one: Pass) -> Iterator[Sequence[_Member]]:
        """Members that share a batch of a pass."""
        place = 0
        for size in evenly(len(members), one.together(self.live.batch_tokens)):
            yield members[place : place + size]
            place += size

    @contextmanager
    def _steering(self, part: Sequence[_Member], one: Pass) -> Iterator[list[Condition] | None]:
        """Steer a pass of some members: all of it, or row by row, one member's texts after the other's."""
        if len(part) > 1:
            yield [member.interventions for member in part for _ in one.lengths]
        elif part[0].steered or not part[0].interventions:
            yield None
        else:
            with self.live.steer(*part[0].interventions, expected_tokens=one.tokens):
                yield None

    # Passes

    def _prepare_baseline(self, data: str, jobs: Sequence[Job]) -> None:
        seen, prompts = self._seen, self.prompts(data)
        if data not in seen.logits and any(job.needs.baseline and job.needs.next_token_logits for job in jobs):
            self.observer.step(f"baseline logits on {data}")
            seen.logits[data] = next_token_logits(self.live, prompts, self.observer.progress)
        compared = any(compares_completions(job.needs) for job in jobs)
        # As long as anybody asks for, so that the baseline condition takes its own from here.
        longest = max(job.needs.max_new_tokens for job in jobs)
        if data not in seen.completions and compared and longest:
            self.observer.step(f"baseline completions on {data}")
            seen.completions[data] = self.live.complete(
                prompts, max_new_tokens=longest, progress=self.observer.progress
            )

    def complete(
        self, conditions: Sequence[_Interventions], data: str, new_tokens: int, first: int | None = None
    ) -> list[_Completions]:
        """Token ids of completions of the first texts of a data set (None: of all), under each of several conditions,
        which share batches where all their rows fit into one."""
        members = [_Member(tuple(interventions)) for interventions in conditions]
        self._generate(members, self.prompts(data)[:first], new_tokens)
        return [member.ids or [] for member in members]

    def reference(self, data: str) -> Tensor:
        """Next-token logits of the model as it is, ``[n, vocab]``, from the batches that a condition would have."""
        prompts = self.prompts(data)
        chunks = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
        return torch.cat([next_token_logits(self.live, chunk, self.observer.progress) for chunk in chunks])

    def _complete(
        self,
        members: Sequence[_Member],
        data: str,
        jobs: Sequence[Job],
        known: Mapping[str, Sequence[_Completions]] | None,
    ) -> None:
        """Completions that jobs score."""
        longest = max((job.needs.max_new_tokens for job in jobs if not job.needs.baseline_completions), default=0)
        kept = self._seen.completions.get(data) if _is_baseline(members) else None
        for member in members:
            member.ids = None if kept is None or not longest else [row[:longest] for row in kept]
        if known is not None:
            for member, rows in zip(members, known.get(data, ()), strict=False):
                member.ids = list(rows)
        elif longest and kept is None:
            self.observer.step(f"completions on {data}")
            self._generate(members, self.prompts(data), longest)
        self._keep_completions(members, data)

    def _generate(self, members: Sequence[_Member], prompts: list[Rendered], new_tokens: int) -> None:
        one, n = completing(_lengths(prompts), new_tokens), len(prompts)
        for part in self._parts(members, one):
            with self._steering(part, one) as steer:
                ids = self.live.complete(
                    prompts * len(part), max_new_tokens=new_tokens, steer=steer, progress=self.observer.progress
                )
            for place, member in enumerate(part):
                member.ids = ids[place * n : (place + 1) * n]

    def _keep_completions(self, members: Sequence[_Member], data: str) -> None:
        for member in members:
            if member.ids is not None:
                member.completions[data] = tuple(self.live.decode(row) for row in member.ids)

    def _sample(self, members: Sequence[_Member], wanted: SampleRequest) -> None:
        if wanted.data in members[0].completions:
            return  # an evaluator generated there; what is shown is then what was scored, at its length
        self.observer.step(f"completions to read on {wanted.data}")
        self._generate(members, self.prompts(wanted.data)[: wanted.n], wanted.max_new_tokens)
        self._keep_completions(members, wanted.data)

    # Scores

    def _prompt_scores(self, members: Sequence[_Member], data: str, jobs: Sequence[Job]) -> None:
        """Scores of what follows a prompt: its next-token logits, its completion, or both."""
        asking = [job for job in jobs if not job.needs.sequence_logits]
        kept = self._seen.logits.get(data) if _is_baseline(members) else None
        prompts = self.prompts(data) if asking else []
        chunks = [slice(start, start + CHUNK) for start in range(0, len(prompts), CHUNK)]
        if kept is not None or not any(job.needs.next_token_logits for job in asking):
            for member in members:
                for chunk in chunks:
                    self._score_prompts(member, asking, data, chunk, None if kept is None else kept[chunk])
            return
        self.observer.step(f"next-token logits on {data}")
        one = Pass(tuple(_lengths(prompts)), most_rows=CHUNK)
        for part in self._parts(members, one):
            with self._steering(part, one) as steer:
                # Members that share a batch have one chunk, with all their rows.
                for chunk in chunks:
                    logits = next_token_logits(self.live, prompts[chunk] * len(part), self.observer.progress, steer)
                    for member, own in zip(part, logits.unflatten(0, (len(part), -1)), strict=True):
                        self._score_prompts(member, asking, data, chunk, own)

    def _score_prompts(
        self, member: _Member, jobs: Sequence[Job], data: str, chunk: slice, logits: Tensor | None
    ) -> None:
        places = range(len(self.texts[data]))[chunk]
        seen = self._seen
        for job in jobs:
            baseline = None
            if job.needs.baseline:
                baseline = self._outputs(job, chunk, seen.logits.get(data), seen.completions.get(data))
            outputs = self._outputs(job, chunk, None, member.ids)
            shown = logits if job.needs.next_token_logits else None
            member.take(job, places, replace(outputs, next_token_logits=shown, baseline=baseline))

    def _outputs(self, job: Job, chunk: slice, logits: Tensor | None, ids: _Completions | None) -> Outputs:
        """What a job asked for, and nothing else, for some of the texts."""
        limit = job.needs.max_new_tokens
        return Outputs(
            self.texts[job.data][chunk],
            next_token_logits=logits[chunk] if logits is not None and job.needs.next_token_logits else None,
            completions=[self.live.decode(row[:limit]) for row in ids[chunk]] if ids is not None and limit else None,
        )

    def _sequence_scores(self, members: Sequence[_Member], data: str, jobs: Sequence[Job]) -> None:
        asking = [job for job in jobs if job.needs.sequence_logits]
        # Jobs that want the same texts, cut at the same length, share a pass.
        for wanted in dict.fromkeys(texts_wanted(job.needs) for job in asking):
            self._along(members, data, [job for job in asking if texts_wanted(job.needs) == wanted], *wanted)

    def _along(
        self, members: Sequence[_Member], data: str, jobs: Sequence[Job], completion_tokens: int, limit: int
    ) -> None:
        self.observer.step(f"logits along {data}")
        if completion_tokens:
            rendered, skip = self._own_completions(data, completion_tokens)
            one = along([length + completion_tokens for length in skip], limit)
        else:
            rendered, skip = self._render(data, raw=True), [1] * len(self.texts[data])
            one = along(_lengths(rendered), limit)
        if limit:
            rendered = [item.cut(limit) for item in rendered]
        for part in self._parts(members, one):
            with self._steering(part, one) as steer:
                for piece in sequence_logits(self.live, rendered * len(part), skip * len(part), steer):
                    self._score_along(part, data, jobs, piece)

    def _score_along(self, part: Sequence[_Member], data: str, jobs: Sequence[Job], piece: SequenceLogits) -> None:
        """Hand each member its rows of a piece; a piece that is one member's alone is not copied."""
        texts = self.texts[data]
        for place, member in enumerate(part):
            rows = [row for row, index in enumerate(piece.order) if index // len(texts) == place]
            if not rows:
                continue
            mine = slice(None) if len(rows) == len(piece.order) else rows
            places = [piece.order[row] % len(texts) for row in rows]
            outputs = Outputs(
                [texts[index] for index in places],
                sequence_logits=piece.logits[mine],
                token_ids=piece.token_ids[mine],
                token_mask=piece.token_mask[mine],
            )
            for job in jobs:
                member.take(job, places, outputs)

    def _own_completions(self, data: str, length: int) -> tuple[list[Rendered], list[int]]:
        prompts = self.prompts(data)
        rendered = [
            Rendered((*prompt.token_ids, *ids[:length]), prompt.instruction, len(prompt.token_ids))
            for prompt, ids in zip(prompts, self._seen.completions[data], strict=True)
        ]
        return rendered, _lengths(prompts)


def _is_baseline(members: Sequence[_Member]) -> bool:
    return len(members) == 1 and not members[0].interventions


def _lengths(rendered: Sequence[Rendered]) -> list[int]:
    return [len(item.token_ids) for item in rendered]


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
