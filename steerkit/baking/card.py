"""``README.md``: what was changed in a checkpoint, in plain words, with what the run measured of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

import steerkit
from steerkit.bundled import BUNDLED
from steerkit.errors import agreeing, counted
from steerkit.report.absent import absent_word, is_judge
from steerkit.report.describe import describe_direction as direction_in_words
from steerkit.report.describe import describe_intervention
from steerkit.report.numbers import count, sentence_case, significant
from steerkit.report.tables import Block, make_blocks
from steerkit.sources import TINY

if TYPE_CHECKING:
    from steerkit.artifacts.results import RecordEntry, Results
    from steerkit.baking.asked import Asked
    from steerkit.baking.check import Compared
    from steerkit.engine.baking.folding import Change
    from steerkit.engine.lowering.explain import Explanation

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")


def card_of(
    asked: Asked,
    change: Change,
    told: Explanation,
    compared: Compared,
    original: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """The whole card.

    Args:
        asked: the run and its condition.
        change: what the checkpoint has otherwise.
        told: what became of each intervention.
        compared: the checkpoint against the hooked model.
        original: facts of the model that was folded into.
        notes: what to know before another engine serves it.
    """
    name, source = asked.condition.name, asked.plan.loading.source
    parts = [
        f"# {_called(source)} with `{name}` in its weights",
        _warning(asked, source),
        "## What was changed",
        *_changed(asked, change, told),
        "## Along which directions",
        *_directions(asked),
        "## What the run measured",
        *_effects(asked),
        "## Is it the same as steering?",
        _compared(compared, original),
        *(["## Before another engine serves it", *notes] if notes else []),
        "## The original",
        *_original(asked, source, original),
        f"Written by steerkit {steerkit.__version__} (`steerkit bake`) from the run `{asked.run.path.resolve().name}`; "
        "`steerkit.json` holds the recipe, hashes and versions.",
    ]
    return f"---\n{yaml.safe_dump(_front(asked, source), sort_keys=False, allow_unicode=True)}---\n\n" + (
        "\n\n".join(parts) + "\n"
    )


def _front(asked: Asked, source: str) -> dict[str, Any]:
    base = hub_id(source)
    tags = ["steerkit", "activation-steering", "research-artefact", "modified-weights"]
    tags += dict.fromkeys(_ODD.sub("-", one.name) for one in asked.run.conditions[asked.condition.name].interventions)
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    return front if base is None else {"base_model": base, **front}


def hub_id(source: str) -> str | None:
    """The original on the hub, or None where only a local path is known."""
    if source in BUNDLED:
        return BUNDLED[source].hub_id
    if source.startswith(TINY) or Path(source).expanduser().exists() or _HUB_ID.fullmatch(source) is None:
        return None
    return source


def _called(source: str) -> str:
    if source in BUNDLED:
        return BUNDLED[source].title
    return Path(source).name if hub_id(source) is None else source


def _warning(asked: Asked, source: str) -> str:
    control = asked.condition.kind == "control"
    what = f"a random control of `{asked.condition.of}`" if control else f"the condition `{asked.condition.name}`"
    return (
        f"**This is a research artefact, not the original model.** Weights of {_called(source)} were edited so that "
        f"{what} of a steering study acts on every token, always: it can't be switched off, and nothing at run time "
        "shows that it is there. What was measured is below; what isn't there wasn't measured. It was not trained, not "
        "tested for safety, and isn't meant for use with people who don't know what was changed."
    )


def _changed(asked: Asked, change: Change, told: Explanation) -> Iterator[str]:
    lines = [f"- {describe_intervention(one)}" for one in asked.run.conditions[asked.condition.name].interventions]
    yield "The intervention, as the recipe has it:\n\n" + "\n".join(lines)
    lines = [
        f"- {row.intervention} at {row.sites}: "
        + (f"now in {row.where}" if row.became == "folded" else f"left out, since {row.why}")
        for row in told.rows
    ]
    yield "Where it is in the checkpoint:\n\n" + "\n".join(lines)
    if "tie_word_embeddings" in change.settings:
        yield (
            "The original's head is its embedding. Here the embedding was changed and the head was not, so the "
            "checkpoint holds both, and `config.json` says `tie_word_embeddings: false`."
        )
    declared = sorted(set(change.settings) - {"tie_word_embeddings"})
    if declared:
        settings = ", ".join(f"`{key}: true`" for key in declared)
        yield (
            f"The original has no bias there. `config.json` says {settings}, so that they are read; the "
            f"{counted(len(change.zeros), 'other')} that this declares {agreeing(len(change.zeros))} zero."
        )
    number = len(change.parameters)
    differ = f"{sentence_case(count(number, 'parameter'))} {agreeing(number, 'differs', 'differ')}"
    yield f"{differ} from the original's. {_kinds(change)}Every other one is as it was."


def _kinds(change: Change) -> str:
    """How many of the parameters are biases, which stand beside the weights that are listed: what a projection's own
    bias adds is edited with what its weight does."""
    biases = [name for name in change.parameters if name.endswith(".bias")]
    others = len(change.parameters) - len(biases)
    if not biases or not others:
        return ""
    listed = f"{count(others, 'weight')} and {count(len(biases), 'bias', 'biases')}"
    return f"They are {listed}: where a projection has a bias, it is edited with the weight above. "


def _directions(asked: Asked) -> Iterator[str]:
    from steerkit.artifacts.direction_entries import describe_direction

    listed = []
    for one in asked.directions:
        words = direction_in_words(describe_direction(one))
        random = asked.condition.kind == "control"
        listed.append(f"- `{one.name}`: " + (f"random, with the norms of ({words})" if random else words))
    yield "\n".join(listed) or "None."


def _effects(asked: Asked) -> Iterator[str]:
    results, name = asked.run.results, asked.condition.name
    rows = [_row(block, results, name) for block in make_blocks(results)]
    if not any(rows):
        yield "Nothing: the recipe evaluates nothing."
        return
    head = "| measure | prompts | n | original | with the change | difference (95 % interval) | random directions |"
    yield "\n".join([head, "|---|---|---|---|---|---|---|", *filter(None, rows)])
    yield (
        "Measured on the original while it was steered, before the change was put into a checkpoint. Random directions "
        "of the same norm, where there were any, show what any change of that size does (lowest to highest)."
    )
    loading = asked.plan.loading
    own = [] if loading.system_prompt is None else [f"the system prompt {loading.system_prompt!r}"]
    own += [] if loading.chat_template == "default" else ["a chat template of the recipe's own"]
    if own:
        yield f"Prompts were read with {' and '.join(own)}, which the checkpoint doesn't hold and `steerkit.json` does."


def _row(block: Block, results: Results, name: str) -> str:
    records = [one for one in results.records if (one.evaluator, one.data) == (block.evaluator.name, block.data)]
    found = next((one for one in records if one.condition == name), None)
    baseline = next((one for one in records if one.condition == "baseline"), None)
    if found is None:
        return ""
    number = block.format.number
    controls = {one.name for one in results.conditions if one.of == name}
    random = [one for one in records if one.condition in controls]
    drawn = [one.value for one in random if one.value is not None]
    judge = is_judge(block.evaluator)
    spread = f"{number(min(drawn))} to {number(max(drawn))}" if drawn else absent_word(random, judge)
    cells = [
        f"{block.evaluator.name}{f' ({block.unit})' if block.unit else ''}",
        block.data,
        str(found.n),
        number(None if baseline is None else baseline.value, absent_word([baseline], judge)),
        number(found.value, absent_word([found], judge)),
        _difference(block, found, absent_word([baseline if found.value is not None else found], judge)),
        spread,
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _difference(block: Block, record: RecordEntry, absent: str) -> str:
    """The change with its interval; ``absent`` where there is none."""
    low, high, value = record.difference_ci_low, record.difference_ci_high, record.difference
    if value is None:
        return absent
    if low is None or high is None:
        return block.format.number(value)
    return block.format.change(value, low, high)


def _compared(compared: Compared, original: Mapping[str, Any]) -> str:
    return (
        f"The checkpoint was read back and compared with the original under hooks, which change no weights: on "
        f"{counted(compared.prompts, 'prompt')} ({', '.join(compared.data)}), in {original['dtype']}, next-token "
        f"logits differ by "
        f"at most {significant(compared.largest_difference)} (the largest logit is "
        f"{significant(compared.largest_logit)}; {significant(compared.tolerance)} was allowed)."
    )


def _original(asked: Asked, source: str, original: Mapping[str, Any]) -> Iterator[str]:
    base, revision = hub_id(source), original.get("revision")
    if source.startswith(TINY):
        yield f"A tiny random model for tests: `steerkit.load_model({source!r})`."
    elif base is None:
        yield f"The folder or file `{Path(source).name}` of whoever made the run."
    else:
        at = f", revision `{revision}`" if revision else ""
        yield (
            f'[{base}](https://huggingface.co/{base}){at}: `AutoModelForCausalLM.from_pretrained("{base}")`. Its '
            "licence and terms of use hold for this checkpoint too."
        )
    if source in BUNDLED:
        model = BUNDLED[source]
        yield (
            f"What was folded into are its weights as quantised to {model.quantisation}, written out in float32: "
            f'`steerkit.load_model("{source}")`. Licence: {model.licence}.'
        )
    if original.get("weights_sha256"):
        yield f"Hash of the weights that were changed: `{original['weights_sha256']}`."
