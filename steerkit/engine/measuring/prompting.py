"""What follows prompts under conditions: completions, samples, readings and next-token logits, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from steerkit.api.evaluator import Outputs
from steerkit.engine.measuring.jobs import BASELINE, Completions, Job, Member, Steered
from steerkit.engine.measuring.references import read_references, with_references
from steerkit.engine.measuring.setting import Setting
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.capture import Key
from steerkit.engine.reading.monitors import Read, completion_to_read, read_along
from steerkit.engine.reading.passes import next_token_logits, sampled_completions
from steerkit.sharing import (
    CHUNK,
    Sampling,
    compares_completions,
    completing,
    greedy_tokens,
    next_tokens,
    reading,
    reading_lengths,
    sampling,
    samplings,
)
from steerkit.types import Positions, SitePattern, parse_sites


def lengths_of(rendered: Sequence[Rendered]) -> list[int]:
    """Tokens of each text."""
    return [len(item.token_ids) for item in rendered]


def prepare_baseline(setting: Setting, data: str, jobs: Sequence[Job]) -> None:
    """Make what jobs on a data set compare with, as far as it isn't there."""
    plain, prompts, observer = setting.plain, setting.prompts(data), setting.observer
    if data not in plain.logits and any(job.needs.baseline and job.needs.next_token_logits for job in jobs):
        observer.step(f"baseline logits on {data}")
        plain.logits[data] = next_token_logits(setting.live, prompts, observer.progress)
    compared = any(compares_completions(job.needs) for job in jobs)
    # As long as anybody asks for, so that the baseline condition takes its own from here.
    longest = max(0 if job.needs.samples else job.needs.max_new_tokens for job in jobs)
    if data not in plain.completions and compared and longest:
        observer.step(f"baseline completions on {data}")
        plain.completions[data] = setting.live.complete(prompts, max_new_tokens=longest, progress=observer.progress)
    against = [job for job in jobs if job.needs.baseline]
    member = Member(Steered(), BASELINE, ids={data: plain.completions.get(data, [])})
    for wanted in samplings(job.needs for job in against):
        sample_for_member(setting, member, data, wanted)
    for length in reading_lengths(job.needs for job in against):
        read(setting, [member], data, jobs, length)
    for job in jobs:
        read_references(setting, job, activation_keys_of_job(setting, job))


def complete_for_members(
    setting: Setting,
    members: Sequence[Member],
    data: str,
    jobs: Sequence[Job],
    known: Sequence[Completions] | None = None,
) -> None:
    """Completions that jobs score: those of each member that are ``known``, or new ones."""
    longest = max((greedy_tokens(job.needs) for job in jobs), default=0)
    kept = setting.plain.completions.get(data)
    if known is not None:
        for member, rows in zip(members, known, strict=True):
            member.ids[data] = list(rows)
    elif longest and kept is not None and not members[0].acts:
        members[0].ids[data] = [row[:longest] for row in kept]
    elif longest:
        setting.observer.step(f"completions on {data}")
        generate_for_members(setting, members, data, setting.prompts(data, members[0].system_prompt), longest)
    keep_completions(setting, members, data)
    for wanted in samplings(job.needs for job in jobs):
        for member in members:
            member.sampled[(data, wanted)] = sample_for_member(setting, member, data, wanted)


def generate_for_members(
    setting: Setting, members: Sequence[Member], data: str, prompts: list[Rendered], new_tokens: int
) -> None:
    """Greedy completions of prompts of a data set."""
    one, n = completing(lengths_of(prompts), new_tokens), len(prompts)
    for part in setting.parts(members, one):
        with setting.steering(part, one, data) as steer:
            ids = setting.live.complete(
                prompts * len(part), max_new_tokens=new_tokens, steer=steer, progress=setting.observer.progress
            )
        for place, member in enumerate(part):
            member.ids[data] = ids[place * n : (place + 1) * n]


def keep_completions(setting: Setting, members: Sequence[Member], data: str) -> None:
    """Keep completions as texts, for samples."""
    for member in members:
        if data in member.ids:
            member.completions[data] = tuple(setting.live.decode(row) for row in member.ids[data])


def sample_for_member(setting: Setting, member: Member, data: str, wanted: Sampling) -> list[list[str]]:
    """Sampled completions under one condition, by prompt. Nobody shares their batches, so they follow from the seed,
    the data, the place of the example, the number of the sample and the condition alone."""
    key = (data, wanted)
    if not member.acts and key in setting.plain.sampled:
        return setting.plain.sampled[key]
    setting.observer.step(f"samples on {data}")
    prompts = setting.prompts(data, member.system_prompt)
    one = sampling(lengths_of(prompts), wanted)
    places = [(place, number) for place in range(len(prompts)) for number in range(wanted.n)]
    with setting.steering([member], one, data):
        ids = sampled_completions(
            setting.live,
            [prompts[place] for place, _ in places],
            [f"{setting.seed}/{data}/{place}/{number}/{member.name}" for place, number in places],
            max_new_tokens=wanted.new_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            progress=setting.observer.progress,
        )
    texts = [setting.live.decode(row) for row in ids]
    found = [texts[start : start + wanted.n] for start in range(0, len(texts), wanted.n)]
    if not member.acts:
        setting.plain.sampled[key] = found
    return found


# Readings


def activation_keys_of_job(setting: Setting, job: Job) -> list[Key]:
    """The sites and positions at which a job wants activations."""
    layout, keys = setting.live.layout, []
    for written, where in job.needs.activations:
        sites = parse_sites(written)
        named = sites.sites(layout.n_layers) if isinstance(sites, SitePattern) else (sites,)
        keys += [(site, Positions.parse(where)) for site in named]
    return list(dict.fromkeys(keys))


def read(setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job], length: int) -> list[list[Read]]:
    """What all jobs want read along prompts and so many tokens of completions, for each member."""
    if not members[0].acts and (data, length) in setting.plain.read:
        return [setting.plain.read[(data, length)]]
    setting.observer.step(f"readings on {data}")
    asking = [job for job in jobs if length in reading_lengths([job.needs])]
    keys = list(dict.fromkeys(key for job in asking for key in activation_keys_of_job(setting, job)))
    monitors = setting.monitors if any(job.needs.monitors for job in asking) else ()
    prompts = setting.prompts(data, members[0].system_prompt)
    one, found = reading(lengths_of(prompts), length), []
    for part in setting.parts(members, one):
        texts = [text for member in part for text in _prompts_with_written(prompts, member.ids.get(data), length)]
        with setting.steering(part, one, data) as steer:
            all_read = read_along(setting.live, texts, monitors, keys, steer, lenient=True)
        n = len(prompts)
        found += [all_read[place * n : (place + 1) * n] for place in range(len(part))]
    if not members[0].acts:
        setting.plain.read[(data, length)] = found[0]
    return found


def _prompts_with_written(prompts: Sequence[Rendered], ids: Completions | None, length: int) -> list[Rendered]:
    if not length or ids is None:
        return list(prompts)
    return [completion_to_read(prompt, row[:length]) for prompt, row in zip(prompts, ids, strict=True)]


def _shown(setting: Setting, job: Job, outputs: Outputs, some: Sequence[Read]) -> Outputs:
    """Outputs with what a job wants read, and nothing else."""
    needs = job.needs
    if needs.activations:
        activations = {key: [one.activations[key] for one in some] for key in activation_keys_of_job(setting, job)}
        outputs = replace(outputs, activations=activations)
    if needs.monitors:
        names = [one.name for one in setting.monitors] if isinstance(needs.monitors, bool) else needs.monitors
        outputs = replace(outputs, readings={name: [one.readings[name] for one in some] for name in names})
    return outputs


# Scores


@dataclass(frozen=True)
class _Ready:
    """What one member has on a data set beside its logits.

    Args:
        member: the member.
        read: what was read, by the length of the completions.
    """

    member: Member
    read: dict[int, list[Read]]


def score_prompts(setting: Setting, members: Sequence[Member], data: str, jobs: Sequence[Job]) -> None:
    """Scores of what follows a prompt: next-token logits, completions, samples, readings, or several of these."""
    asking = [job for job in jobs if not job.needs.sequence_logits]
    if not asking:
        return
    lengths = reading_lengths(job.needs for job in asking)
    by_length = {length: read(setting, members, data, asking, length) for length in lengths}
    ready = [
        _Ready(member, {length: rows[at] for length, rows in by_length.items()}) for at, member in enumerate(members)
    ]
    prompts = setting.prompts(data, members[0].system_prompt)
    chunks = [range(len(prompts))[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
    together = [job for job in asking if job.needs.references]
    for one in ready:
        if together:
            _score_chunk(setting, one, together, data, range(len(prompts)), None)
    asking = [job for job in asking if job not in together]
    kept = setting.plain.logits.get(data) if not members[0].acts else None
    if kept is not None or not any(job.needs.next_token_logits for job in asking):
        for one in ready:
            for chunk in chunks:
                own = None if kept is None else kept[chunk.start : chunk.stop]
                _score_chunk(setting, one, asking, data, chunk, own)
        return
    setting.observer.step(f"next-token logits on {data}")
    look = next_tokens(lengths_of(prompts))
    place = 0
    for part in setting.parts(members, look):
        held, place = ready[place : place + len(part)], place + len(part)
        with setting.steering(part, look, data) as steer:
            # Members that share a batch have one chunk, with all their rows.
            for chunk in chunks:
                rows = prompts[chunk.start : chunk.stop] * len(part)
                logits = next_token_logits(setting.live, rows, setting.observer.progress, steer)
                for one, own in zip(held, logits.unflatten(0, (len(part), -1)), strict=True):
                    _score_chunk(setting, one, asking, data, chunk, own)


def _score_chunk(
    setting: Setting, ready: _Ready, jobs: Sequence[Job], data: str, chunk: range, logits: Tensor | None
) -> None:
    plain, member = setting.plain, ready.member
    for job in jobs:
        baseline = None
        if job.needs.baseline:
            held = plain.logits.get(data)
            unsteered = Member(Steered(), ids={data: plain.completions.get(data, [])}, sampled=plain.sampled)
            own = None if held is None else held[chunk.start : chunk.stop]
            rows = {length: found for (where, length), found in plain.read.items() if where == data}
            baseline = _outputs(setting, _Ready(unsteered, rows), job, chunk, own)
        outputs = replace(_outputs(setting, ready, job, chunk, logits), baseline=baseline)
        setting.take(member, job, chunk, outputs)


def _outputs(setting: Setting, ready: _Ready, job: Job, chunk: range, logits: Tensor | None) -> Outputs:
    """What a job asked for, and nothing else, for some of the texts."""
    outputs, member, some = setting.outputs(job, chunk), ready.member, slice(chunk.start, chunk.stop)
    limit = greedy_tokens(job.needs)
    if job.needs.next_token_logits:
        outputs = replace(outputs, next_token_logits=logits)
    if limit:
        texts = [setting.live.decode(row[:limit]) for row in member.ids[job.data][some]]
        outputs = replace(outputs, completions=texts)
    if (wanted := Sampling.of(job.needs)) is not None:
        outputs = replace(outputs, samples=member.sampled[(job.data, wanted)][some])
    if limit in ready.read and (job.needs.activations or job.needs.monitors):
        outputs = _shown(setting, job, outputs, ready.read[limit][some])
    return with_references(setting, job, activation_keys_of_job(setting, job), outputs)
