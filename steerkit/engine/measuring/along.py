"""Logits along texts under conditions, beside the baseline's where somebody compares them, and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch

from steerkit.api.evaluator import Outputs
from steerkit.engine.lowering.edits import Steer
from steerkit.engine.measuring.jobs import Job, Member, Steered
from steerkit.engine.measuring.prompting import lengths_of
from steerkit.engine.measuring.setting import Setting
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.monitors import completion_to_read
from steerkit.engine.reading.passes import SequenceLogits, sequence_logits
from steerkit.engine.runtime.runtime import Runtime
from steerkit.errors import DataError
from steerkit.sharing import BY_ITSELF, Pass, along, compares_along, texts_wanted


def score_along(setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job]) -> None:
    """Scores of logits along texts. Jobs that want the same texts, cut at the same length, share a pass."""
    asking = [job for job in jobs if job.needs.sequence_logits]
    for wanted in dict.fromkeys(texts_wanted(job.needs) for job in asking):
        sharing = [job for job in asking if texts_wanted(job.needs) == wanted]
        _score_members(setting, members, data, sharing, *wanted)


@dataclass(frozen=True)
class _Texts:
    """What is read along.

    Args:
        rendered: the texts.
        skip: how many leading tokens of each are context and don't count.
    """

    rendered: Sequence[Rendered]
    skip: Sequence[int]

    def times(self, copies: int) -> _Texts:
        """All of them, several times over."""
        return _Texts(list(self.rendered) * copies, list(self.skip) * copies)

    def logits(self, live: Runtime, steer: Sequence[Steer] | None = None) -> Iterator[SequenceLogits]:
        """Logits along them, a batch at a time."""
        return sequence_logits(live, self.rendered, self.skip, steer)

    def select(self, places: Sequence[int]) -> _Texts:
        """Some of the texts."""
        return _Texts([self.rendered[place] for place in places], [self.skip[place] for place in places])


def _score_members(
    setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job], completion_tokens: int, limit: int
) -> None:
    setting.observer.step(f"logits along {data}")
    system_prompt = members[0].system_prompt
    texts = _texts(setting, data, completion_tokens, limit, system_prompt)
    one = along(lengths_of(texts.rendered), limit)
    if completion_tokens:
        # As long as completions may be, so that which conditions share a batch follows from the prompts alone.
        one = along([length + completion_tokens for length in texts.skip], limit)
    compared = compares_along([job.needs for job in jobs], (completion_tokens, limit))
    plain = texts
    if compared and system_prompt is not None:
        plain = _same_tokens(texts, _texts(setting, data, completion_tokens, 0, None), data)
    for part in setting.parts(members, one):
        # Steered row by row, so that between two of its batches the model is its plain self.
        with setting.steering(part, one, data, by_row=compared) as steer:
            pieces = texts.times(len(part)).logits(setting.live, steer)
            if compared and part[0].under.placements and part[0].under.mode in BY_ITSELF:
                pieces = _under(setting, part[0].under, one, pieces)
            for piece, against in _compared(setting, part, pieces, plain) if compared else zip(pieces, repeat(None)):
                _score_piece(setting, part, data, jobs, piece, against)


def _texts(setting: Setting, data: str, completion_tokens: int, limit: int, system_prompt: str | None) -> _Texts:
    """What conditions with a system prompt read: the baseline's completions behind their prompts, or the data's own."""
    if completion_tokens:
        prompts = setting.prompts(data, system_prompt)
        completions = setting.plain.completions[data]
        rendered = [
            completion_to_read(prompt, ids[:completion_tokens])
            for prompt, ids in zip(prompts, completions, strict=True)
        ]
    else:
        rendered = setting.raw_texts(data, system_prompt)
    skip = [text.prompt or 1 for text in rendered]
    return _Texts([text.cut(limit) for text in rendered] if limit else rendered, skip)


def _same_tokens(texts: _Texts, plain: _Texts, data: str) -> _Texts:
    """The baseline's texts, its own prompts before them, up to where those of a condition end.

    Raises:
        DataError: where what counts isn't the same tokens.
    """
    cut = []
    for place, (text, skip) in enumerate(zip(texts.rendered, texts.skip, strict=True)):
        counted, start = text.token_ids[skip:], plain.skip[place]
        other = plain.rendered[place].cut(start + len(counted))
        if other.token_ids[start:] != counted:
            raise DataError(
                f"Example {place + 1} of {data}: its text has other tokens behind a condition's system prompt, so its "
                "logits can't be compared with the baseline's. Begin the text with a space or a line of its own."
            )
        cut.append(other)
    return _Texts(cut, plain.skip)


def _under(setting: Setting, under: Steered, one: Pass, pieces: Iterator[SequenceLogits]) -> Iterator[SequenceLogits]:
    """Pieces that are each computed under a condition, which is taken off between two of them."""
    while True:
        with setting.live.steer(*under.placements, mode=under.mode, expected_tokens=one.tokens):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _compared(
    setting: Setting, part: Sequence[Member], pieces: Iterator[SequenceLogits], plain: _Texts
) -> Iterator[tuple[SequenceLogits, SequenceLogits]]:
    """Batches of logits, each with the unsteered model's for the same rows, since neither can be kept."""
    if part[0].system_prompt is not None:
        yield from ((piece, _unsteered(setting, piece, plain)) for piece in pieces)
    elif any(member.under.placements for member in part):
        yield from zip(pieces, plain.times(len(part)).logits(setting.live), strict=True)
    else:
        yield from ((piece, piece) for piece in pieces)


def _unsteered(setting: Setting, piece: SequenceLogits, plain: _Texts) -> SequenceLogits:
    """The unsteered model's logits for the rows of a piece, each at the same token, behind their own prompts."""
    n = len(plain.rendered)
    places = [index % n for index in piece.order]
    logits = torch.zeros_like(piece.logits)
    for found in plain.select(places).logits(setting.live):
        for row, place in enumerate(found.order):
            logits[place, piece.token_mask[place]] = found.logits[row, found.token_mask[row]]
    return replace(piece, logits=logits)


def _score_piece(
    setting: Setting,
    part: Sequence[Member],
    data: str,
    jobs: Sequence[Job],
    piece: SequenceLogits,
    plain: SequenceLogits | None,
) -> None:
    """Hand each member its rows of a piece; a piece that is one member's alone is not copied."""
    n = len(setting.examples[data])
    for place, member in enumerate(part):
        rows = [row for row, index in enumerate(piece.order) if index // n == place]
        if not rows:
            continue
        mine = None if len(rows) == len(piece.order) else rows
        places = [piece.order[row] % n for row in rows]
        for job in jobs:
            outputs = _rows_of_job(setting, job, places, piece, mine)
            if job.needs.baseline and plain is not None:
                outputs = replace(outputs, baseline=_rows_of_job(setting, job, places, plain, mine))
            setting.take(member, job, places, outputs)


def _rows_of_job(
    setting: Setting, job: Job, places: Sequence[int], piece: SequenceLogits, rows: Sequence[int] | None
) -> Outputs:
    mine = slice(None) if rows is None else list(rows)
    return replace(
        setting.outputs(job, places),
        sequence_logits=piece.logits[mine],
        token_ids=piece.token_ids[mine],
        token_mask=piece.token_mask[mine],
    )
