"""What the passes of an evaluation share: the model, the texts as prompts, and who is steered by what in which pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from steerkit.api.evaluator import Outputs
from steerkit.api.monitor import Monitor
from steerkit.engine.lowering.edits import Steer, edits_of
from steerkit.engine.measuring.asking import Kept, answer
from steerkit.engine.measuring.jobs import Cause, Completions, Job, Member, Steered
from steerkit.engine.prompts.chat import ChatFormat, Rendered
from steerkit.engine.reading.capture import Key
from steerkit.engine.reading.monitors import Read
from steerkit.engine.runtime.runtime import Runtime
from steerkit.engine.sequence.tally import Tally, counting_edited_tokens
from steerkit.engine.sequence.when import When
from steerkit.progress import Observer
from steerkit.sharing import BY_ITSELF, Pass, Sampling, evenly
from steerkit.templates import opened
from steerkit.types import FROM_TOKEN, Example


@dataclass
class Plain:
    """Unsteered outputs that steered ones are compared with, each made once."""

    logits: dict[str, Tensor] = field(default_factory=dict)
    completions: dict[str, Completions] = field(default_factory=dict)
    sampled: dict[tuple[str, Sampling], list[list[str]]] = field(default_factory=dict)
    read: dict[tuple[str, int], list[Read]] = field(default_factory=dict)
    referred: dict[tuple[str, Key], list[Tensor]] = field(default_factory=dict)


@dataclass(eq=False)
class Setting:
    """What passes share.

    Args:
        live: the model.
        examples: ``{data: its rows}``.
        observer: told of each pass.
        seed: that samples are drawn by.
        kept: answers of what evaluators asked before.
        monitors: what reads.
        plain: the baseline's outputs.
    """

    live: Runtime
    examples: Mapping[str, Sequence[Example]]
    observer: Observer
    seed: int = 0
    kept: Kept | None = None
    monitors: Sequence[Monitor] = ()
    plain: Plain = field(default_factory=Plain)
    _rendered: dict[tuple[str, bool, str | None], list[Rendered]] = field(default_factory=dict)

    def prompts(self, data: str, system_prompt: str | None = None) -> list[Rendered]:
        """The prompts of a data set, with a condition's system prompt where it has one; they are rendered once."""
        key = (data, False, system_prompt)
        if key not in self._rendered:
            chat = self._chat(system_prompt)
            self._rendered[key] = [chat.render(example) for example in self.examples[data]]
        return self._rendered[key]

    def raw_texts(self, data: str, system_prompt: str | None = None) -> list[Rendered]:
        """What is read along of a data set: texts by themselves, answers behind their prompts, else conversations.

        A condition's system prompt stands before prompts; what is read as it is has none.
        """
        key = (data, True, system_prompt)
        if key not in self._rendered:
            own, plain = self._chat(system_prompt), self.live.chat
            self._rendered[key] = [
                (plain if opened(example).completion is None else own).render_reading(example)
                for example in self.examples[data]
            ]
        return self._rendered[key]

    def _chat(self, system_prompt: str | None) -> ChatFormat:
        return self.live.chat if system_prompt is None else self.live.chat.with_system_prompt(system_prompt)

    def acts(self, under: Steered) -> bool:
        """Whether a condition does anything at all: interventions of coefficient 0 don't, a system prompt does."""
        return under.system_prompt is not None or bool(edits_of(under.placements, self.live.layout))

    def parts(self, members: Sequence[Member], one: Pass) -> Iterator[Sequence[Member]]:
        """Members that share a batch of a pass."""
        place = 0
        for size in evenly(len(members), one.together(self.live.batch_tokens)):
            yield members[place : place + size]
            place += size

    @contextmanager
    def steering(
        self, part: Sequence[Member], one: Pass, data: str, *, by_row: bool = False
    ) -> Iterator[list[Steer] | None]:
        """Steer a pass of some members: all of it, or row by row, one member's texts after the other's.

        One that comes alone is lowered for the tokens of this pass, so it may be folded. So what a pass gives depends
        on its condition and its texts, never on what else is measured.

        Args:
            part: the members.
            one: the pass.
            data: its texts.
            by_row: steer by row also where one member comes alone. One whose mode that isn't is left to the caller.

        Yields:
            conditions for the rows, or None where all is done already.
        """
        if not any(member.under.placements for member in part):
            yield None
            return
        with counting_edited_tokens(Tally()) as tally:
            under = part[0].under
            if len(part) == 1 and by_row and under.mode in BY_ITSELF:
                yield None
            elif len(part) > 1 or by_row:
                yield [member.under.placements for member in part for _ in one.lengths]
            else:
                with self.live.steer(*under.placements, mode=under.mode, expected_tokens=one.tokens):
                    yield None
        for (place, when), tokens in tally.edited.items():
            member = part[place // len(one.lengths)] if len(part) > 1 else part[0]
            counts = member.activity.setdefault((data, one.kind), {})
            key = (str(when), _cause_of_when(when))
            counts[key] = counts.get(key, 0) + tokens

    # Scores

    def outputs(self, job: Job, places: Sequence[int]) -> Outputs:
        """What a job is shown of some texts, before any of the model's outputs."""
        chosen = [self.examples[job.data][place] for place in places]
        return Outputs([example.text for example in chosen], examples=chosen)

    def take(self, member: Member, job: Job, places: Sequence[int], outputs: Outputs) -> None:
        """Have questions answered, where a job has any, and let it score."""
        if job.needs.calls:
            key = (job.name, job.data)
            questions = job.evaluator.questions(outputs)
            spent, took = member.asked.get(key, (0, 0))
            calls, tokens = max(0, job.needs.calls - spent), job.needs.call_tokens
            left = max(0, tokens - took) if tokens else None
            answers = answer(job.evaluator, questions, budget=calls, tokens=left, kept=self.kept)
            member.asked[key] = spent + answers.asked, took + answers.tokens
            outputs = replace(outputs, answers=answers.by_example)
            if answers.unanswered:
                member.unanswered.add(key)
            if answers.note:
                member.notes.setdefault(key, []).append(answers.note)
        member.take(job, places, outputs)


def _cause_of_when(when: When) -> Cause:
    if when.gate is not None:
        return "gate"
    return "text" if when.positions.role == FROM_TOKEN else "positions"
