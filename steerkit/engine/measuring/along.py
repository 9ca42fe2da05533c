"""Logits along texts under conditions, beside the baseline's where somebody compares them, and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from steerkit.api.evaluator import Outputs
from steerkit.engine.lowering.edits import Condition
from steerkit.engine.measuring.jobs import Job, Member
from steerkit.engine.measuring.prompting import lengths_of
from steerkit.engine.measuring.setting import Setting
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.monitors import behind
from steerkit.engine.reading.passes import SequenceLogits, sequence_logits
from steerkit.sharing import along, compares_along, texts_wanted


def score_along(setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job]) -> None:
    """Scores of logits along texts. Jobs that want the same texts, cut at the same length, share a pass."""
    asking = [job for job in jobs if job.needs.sequence_logits]
    for wanted in dict.fromkeys(texts_wanted(job.needs) for job in asking):
        sharing = [job for job in asking if texts_wanted(job.needs) == wanted]
        _score(setting, members, data, sharing, *wanted)


def _score(
    setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job], completion_tokens: int, limit: int
) -> None:
    setting.observer.step(f"logits along {data}")
    if completion_tokens:
        rendered, skip = _own_completions(setting, data, completion_tokens)
        one = along([length + completion_tokens for length in skip], limit)
    else:
        rendered, skip = setting.raw_texts(data), [1] * len(setting.examples[data])
        one = along(lengths_of(rendered), limit)
    if limit:
        rendered = [item.cut(limit) for item in rendered]
    compared = compares_along([job.needs for job in jobs], (completion_tokens, limit))
    for part in setting.parts(members, one):
        # Steered row by row, so that between two of its batches the model is its plain self.
        with setting.steering(part, one, data, by_row=compared) as steer:
            for piece, plain in _pieces(setting, rendered * len(part), skip * len(part), steer, compared):
                _score_piece(setting, part, data, jobs, piece, plain)


def _pieces(
    setting: Setting,
    texts: Sequence[Rendered],
    skip: Sequence[int],
    steer: Sequence[Condition] | None,
    compared: bool,
) -> Iterator[tuple[SequenceLogits, SequenceLogits | None]]:
    """Batches of logits, each with the unsteered model's for the same rows, since neither can be kept."""
    steered = sequence_logits(setting.live, texts, skip, steer)
    if not compared:
        for piece in steered:
            yield piece, None
    elif steer is None:
        for piece in steered:
            yield piece, piece
    else:
        yield from zip(steered, sequence_logits(setting.live, texts, skip), strict=True)


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
            outputs = _rows(setting, job, places, piece, mine)
            if job.needs.baseline and plain is not None:
                outputs = replace(outputs, baseline=_rows(setting, job, places, plain, mine))
            setting.take(member, job, places, outputs)


def _rows(
    setting: Setting, job: Job, places: Sequence[int], piece: SequenceLogits, rows: Sequence[int] | None
) -> Outputs:
    mine = slice(None) if rows is None else list(rows)
    return replace(
        setting.outputs(job, places),
        sequence_logits=piece.logits[mine],
        token_ids=piece.token_ids[mine],
        token_mask=piece.token_mask[mine],
    )


def _own_completions(setting: Setting, data: str, length: int) -> tuple[list[Rendered], list[int]]:
    prompts = setting.prompts(data)
    rendered = [
        behind(prompt, ids[:length]) for prompt, ids in zip(prompts, setting.plain.completions[data], strict=True)
    ]
    return rendered, lengths_of(prompts)
