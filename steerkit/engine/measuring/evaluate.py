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
from steerkit.api.intervention import Placement
from steerkit.engine.lowering.edits import Mode, Steer
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.passes import SequenceLogits, next_token_logits, sequence_logits
from steerkit.engine.runtime.runtime import Runtime
from steerkit.errors import PluginError
from steerkit.progress import SILENT, Observer
from steerkit.sharing import BY_ITSELF, CHUNK, Pass, along, compares_completions, completing, evenly, texts_wanted
from steerkit.types import ExampleLike, as_examples

_Completions: TypeAlias = list[list[int]]


@dataclass(frozen=True, eq=False)
class Steered:
    """What outputs are looked at under.

    Args:
        placements: interventions, in order.
        system_prompt: takes the place of the model's own system prompt, and of an example's own system turn.
        mode: how the interventions are lowered; see ``Runtime.steer``.
    """

    placements: tuple[Placement, ...] = ()
    system_prompt: str | None = None
    mode: Mode = "auto"


@dataclass(frozen=True, eq=False)
class Job:
    """One evaluator on one data set.

    Args:
        name: as records call it.
        evaluator: the evaluator.
        needs: what it must see.
        data: key of its examples.
    """

    name: str
    evaluator: Evaluator
    needs: Needs
    data: str


@dataclass(frozen=True)
class SampleRequest:
    """Completions that a reader wants to see: of the first ``n`` examples of a data set."""

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
        under: its interventions, its system prompt, and how it is lowered.
        steered: whether they are active already, so that passes needn't see to it.
        ids: completions on the data set at hand, or None.
        scores: ``{(job name, data): {place of the text: score}}``.
        completions: ``{data: completions}``.
    """

    under: Steered
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
        examples: ``{data: examples}``; texts and lists of messages are read as such.
        samples: completions to keep for the reader.
        observer: told of each pass.
        seen: outputs of the baseline that are there already.
    """

    def __init__(
        self,
        live: Runtime,
        jobs: Sequence[Job],
        examples: Mapping[str, Sequence[ExampleLike]],
        samples: SampleRequest | None = None,
        observer: Observer = SILENT,
        seen: Seen | None = None,
    ) -> None:
        self.live, self.jobs, self.samples, self.observer = live, tuple(jobs), samples, observer
        self.examples = {data: as_examples(list(listed)) for data, listed in examples.items()}
        self._seen = seen or Seen()
        self._rendered: dict[tuple[str, bool, str | None], list[Rendered]] = {}
        for job in self.jobs:
            _require_possible(job)

    def run(self, condition: Steered | Sequence[Placement] = (), *, samples: bool = True) -> ConditionScores:
        """Score every job under a condition (an empty one is the baseline)."""
        return self.run_many([condition], samples=samples)[0]

    def run_many(
        self,
        conditions: Sequence[Steered | Sequence[Placement]],
        *,
        samples: bool = True,
        known: Mapping[str, Sequence[_Completions]] | None = None,
    ) -> list[ConditionScores]:
        """Score every job under each of several conditions, which share batches where all their rows fit into one.

        A condition gives what it would give alone, within float tolerance: about 1e-5 in float32, also in
        mixture-of-experts models, where other rows change the shapes of the experts' products.

        Args:
            conditions: interventions of each, perhaps with a system prompt and a mode. One that comes alone is lowered
                as ``steer`` does for as many tokens as it will see, so it may be folded; several that share a batch are
                hooked. Those of other system prompts share no batch, nor do those in mode ``fold`` or ``interpret``.
            samples: whether to make the completions for the reader.
            known: ``{data: completions of each condition}`` that are there already. Then nothing is written, and each
                pass is lowered for its own tokens, whatever else there is to score.
        """
        found: dict[int, ConditionScores] = {}
        for members in _together(conditions):
            own = None
            if known is not None:
                own = {data: [rows[place] for place in members] for data, rows in known.items()}
            found.update(zip(members, self._run_together(list(members.values()), samples, own), strict=True))
        return [found[place] for place in range(len(conditions))]

    def _run_together(
        self, members: Sequence[_Member], samples: bool, known: Mapping[str, Sequence[_Completions]] | None
    ) -> list[ConditionScores]:
        """Score every job under conditions of one system prompt and one mode."""
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

    def expected_tokens(self, *, samples: bool = True, system_prompt: str | None = None) -> int:
        """How many tokens pass through the model under one condition, at most."""
        return sum(one.tokens for one in self._passes(samples, system_prompt))

    def prompts(self, data: str, system_prompt: str | None = None) -> list[Rendered]:
        """The prompts of a data set, with a condition's system prompt where it has one; they are rendered once."""
        return self._render(data, raw=False, system_prompt=system_prompt)

    def raw_texts(self) -> list[Rendered]:
        """What is read along: texts by themselves, completions behind their prompts, whole conversations."""
        read = {job.data for job in self.jobs if job.needs.sequence_logits and not job.needs.baseline_completions}
        return [text for data in sorted(read) for text in self._render(data, raw=True)]

    def _render(self, data: str, *, raw: bool, system_prompt: str | None = None) -> list[Rendered]:
        key = (data, raw, system_prompt)
        if key not in self._rendered:
            chat = self.live.chat if system_prompt is None else self.live.chat.with_system_prompt(system_prompt)
            render = chat.render_reading if raw else chat.render
            self._rendered[key] = [render(example) for example in self.examples[data]]
        return self._rendered[key]

    def _passes(self, samples: bool, system_prompt: str | None) -> list[Pass]:
        """The passes of a condition that isn't the baseline."""
        found: list[Pass] = []
        generated = set()
        for data in dict.fromkeys(job.data for job in self.jobs):
            needs = [job.needs for job in self.jobs if job.data == data]
            passes = self._passes_over(data, needs, system_prompt)
            generated |= {data} if any(one.new_tokens for one in passes) else set()
            found += passes
        if samples and self.samples is not None and self.samples.data not in generated:
            wanted = self.samples
            shown = self.prompts(wanted.data, system_prompt)[: wanted.n]
            found.append(completing(_lengths(shown), wanted.max_new_tokens))
        return found

    def _passes_over(self, data: str, needs: Sequence[Needs], system_prompt: str | None) -> list[Pass]:
        prompts = _lengths(self.prompts(data, system_prompt))
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
        under = members[0].under
        if len(members) > 1 or not under.placements:
            yield
            return
        expected = self.expected_tokens(samples=samples, system_prompt=under.system_prompt)
        with self.live.steer(*under.placements, mode=under.mode, expected_tokens=expected):
            members[0].steered = True
            yield

    def _parts(self, members: Sequence[_Member], one: Pass) -> Iterator[Sequence[_Member]]:
        """Members that share a batch of a pass."""
        place = 0
        for size in evenly(len(members), one.together(self.live.batch_tokens)):
            yield members[place : place + size]
            place += size

    @contextmanager
    def _steering(self, part: Sequence[_Member], one: Pass) -> Iterator[list[Steer] | None]:
        """Steer a pass of some members: all of it, or row by row, one member's texts after the other's."""
        if len(part) > 1:
            yield [member.under.placements for member in part for _ in one.lengths]
        elif part[0].steered or not part[0].under.placements:
            yield None
        else:
            under = part[0].under
            with self.live.steer(*under.placements, mode=under.mode, expected_tokens=one.tokens):
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
        self,
        conditions: Sequence[Steered | Sequence[Placement]],
        data: str,
        new_tokens: int,
        first: int | None = None,
    ) -> list[_Completions]:
        """Token ids of completions of the first examples of a data set (None: of all), under each of several
        conditions, which share batches as in ``run_many``."""
        found: dict[int, _Completions] = {}
        for members in _together(conditions):
            listed = list(members.values())
            self._generate(listed, self.prompts(data, _system_prompt(listed))[:first], new_tokens)
            found.update({place: member.ids or [] for place, member in members.items()})
        return [found[place] for place in range(len(conditions))]

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
            for member, rows in zip(members, known.get(data, [None] * len(members)), strict=True):
                member.ids = None if rows is None else list(rows)
        elif longest and kept is None:
            self.observer.step(f"completions on {data}")
            self._generate(members, self.prompts(data, _system_prompt(members)), longest)
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
        prompts = self.prompts(wanted.data, _system_prompt(members))[: wanted.n]
        self._generate(members, prompts, wanted.max_new_tokens)
        self._keep_completions(members, wanted.data)

    # Scores

    def _prompt_scores(self, members: Sequence[_Member], data: str, jobs: Sequence[Job]) -> None:
        """Scores of what follows a prompt: its next-token logits, its completion, or both."""
        asking = [job for job in jobs if not job.needs.sequence_logits]
        kept = self._seen.logits.get(data) if _is_baseline(members) else None
        prompts = self.prompts(data, _system_prompt(members)) if asking else []
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
        places = range(len(self.examples[data]))[chunk]
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
        examples = self.examples[job.data][chunk]
        return Outputs(
            [example.text for example in examples],
            examples=examples,
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
            rendered, skip = self._own_completions(data, completion_tokens, _system_prompt(members))
            one = along([length + completion_tokens for length in skip], limit)
        else:
            rendered = self._render(data, raw=True)
            skip = [item.prompt or 1 for item in rendered]
            one = along(_lengths(rendered), limit)
        if limit:
            rendered = [item.cut(limit) for item in rendered]
        for part in self._parts(members, one):
            with self._steering(part, one) as steer:
                for piece in sequence_logits(self.live, rendered * len(part), skip * len(part), steer):
                    self._score_along(part, data, jobs, piece)

    def _score_along(self, part: Sequence[_Member], data: str, jobs: Sequence[Job], piece: SequenceLogits) -> None:
        """Hand each member its rows of a piece; a piece that is one member's alone is not copied."""
        examples = self.examples[data]
        for place, member in enumerate(part):
            rows = [row for row, index in enumerate(piece.order) if index // len(examples) == place]
            if not rows:
                continue
            mine = slice(None) if len(rows) == len(piece.order) else rows
            places = [piece.order[row] % len(examples) for row in rows]
            outputs = Outputs(
                [examples[index].text for index in places],
                examples=[examples[index] for index in places],
                sequence_logits=piece.logits[mine],
                token_ids=piece.token_ids[mine],
                token_mask=piece.token_mask[mine],
            )
            for job in jobs:
                member.take(job, places, outputs)

    def _own_completions(self, data: str, length: int, system_prompt: str | None) -> tuple[list[Rendered], list[int]]:
        """The baseline's completions behind the prompts of these conditions, and how long those are."""
        prompts = self.prompts(data, system_prompt)
        rendered = [
            Rendered((*prompt.token_ids, *ids[:length]), prompt.turns, len(prompt.token_ids))
            for prompt, ids in zip(prompts, self._seen.completions[data], strict=True)
        ]
        return rendered, _lengths(prompts)


def _together(conditions: Sequence[Steered | Sequence[Placement]]) -> list[dict[int, _Member]]:
    """Conditions by their places, those together that may share a batch: of one system prompt and one mode."""
    found: dict[tuple[object, ...], dict[int, _Member]] = {}
    for place, one in enumerate(conditions):
        steered = one if isinstance(one, Steered) else Steered(tuple(one))
        alone = place if steered.mode in BY_ITSELF else None
        found.setdefault((steered.system_prompt, steered.mode, alone), {})[place] = _Member(steered)
    return list(found.values())


def _is_baseline(members: Sequence[_Member]) -> bool:
    return len(members) == 1 and not members[0].under.placements and members[0].under.system_prompt is None


def _system_prompt(members: Sequence[_Member]) -> str | None:
    """The one that conditions which are run together have."""
    return members[0].under.system_prompt


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
