"""What the model says becomes data: completions are written, and take the places that were held for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steerkit.artifacts.results import CompletionsEntry
from steerkit.errors import DataError, counted
from steerkit.plan import DataRef, Plan, PlannedCompletions, PlannedSamples
from steerkit.plan.completions import makers_of
from steerkit.recipe.completions import CONDITION
from steerkit.recipe.schema import WHOLE
from steerkit.stages.graph import Graph, make_graph
from steerkit.stages.packing import from_bytes
from steerkit.stages.tasks import ModelUse, Task
from steerkit.types import Example

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel


def completion_tasks(plan: Plan, model: ModelUse, one: PlannedCompletions) -> tuple[Graph, dict[DataRef, Task]]:
    """The tasks that write one data set of completions.

    They are those that show a reader completions under the condition, of a plan that holds nothing else: completions
    of equal prompts that a run shows later aren't written twice.

    Returns:
        what makes the condition's directions, and for each part of the prompts the task that completes them.
    """
    conditions = () if one.condition is None else (one.condition,)
    names = [name for condition in conditions for name in condition.directions]
    directions, searches = makers_of(names, plan.directions, plan.searches)
    bare = replace(
        plan,
        data={**plan.data, one.name: {ref.split: _prompts(plan, one, ref) for ref in one.of}},
        directions=tuple(directions),
        searches=tuple(searches),
        conditions=conditions,
        evaluations=(),
        monitors=(),
        suffixes=(),
        separated=False,
    )
    found: dict[DataRef, Task] = {}
    for ref in one.of:
        shown = PlannedSamples(DataRef(one.name, ref.split), len(plan.examples(ref)), one.new_tokens)
        graph = make_graph(replace(bare, samples=shown), model)
        task = graph.groups[-1].samples
        assert task is not None  # a plan with samples has a task for them
        found[ref] = replace(task, part="completions", title=f"completions {one.name}")
    return replace(graph, groups=()), found


def completed(
    plan: Plan, one: PlannedCompletions, tasks: Mapping[DataRef, Task], outputs: Mapping[str, bytes], live: LiveModel
) -> tuple[Plan, CompletionsEntry]:
    """A plan with completions in their places, and what is to be told of them.

    An example to which the model says nothing is left out, and with it the other side of its pair: there is no token
    to read in it.

    Args:
        plan: the plan.
        one: the data set.
        tasks: by part of the prompts, who completed them.
        outputs: of these.
        live: the model, whose tokenizer wrote them.

    Raises:
        DataError: where the model says nothing to any prompt of a part.
    """
    written: dict[str, list[tuple[Example, bool]]] = {}
    for ref, task in tasks.items():
        (member,) = from_bytes(outputs[task.key])
        prompts = _prompts(plan, one, ref)
        written[ref.split] = [_said(live, prompt, ids) for prompt, ids in zip(prompts, member["ids"], strict=True)]
    kept: dict[str, list[tuple[Example, bool]]] = {}
    for split, rows in written.items():
        quiet = _silent_pairs(split, written)
        kept[split] = [(said, same) for said, same in rows if said.completion and said.pair not in quiet]
        if not kept[split]:
            raise DataError(
                f"Under condition {one.under} the model says nothing to any of the {counted(len(rows), 'prompt')} of "
                f"{DataRef(one.name, split)}, so there is nothing to read. Look at its completions with report.samples."
            )
    examples = sum(map(len, kept.values()))
    entry = CompletionsEntry(
        data=one.name,
        of=tuple(map(str, one.of)),
        condition=one.under,
        max_new_tokens=one.new_tokens,
        examples=examples,
        left_out=sum(map(len, written.values())) - examples,
        other_tokens=sum(not same for rows in kept.values() for _, same in rows),
    )
    data = {split: tuple(said for said, _ in rows) for split, rows in kept.items()}
    return replace(plan, data={**plan.data, one.name: data}), entry


def _prompts(plan: Plan, one: PlannedCompletions, ref: DataRef) -> tuple[Example, ...]:
    """What the model is asked: those prompts of a part that filters keep, as the data set has them."""
    fields = ({**example.fields, CONDITION: one.under} for example in plan.examples(ref))
    asked = (replace(example, fields=own) for example, own in zip(plan.examples(ref), fields, strict=True))
    return tuple(asked if one.prefix is None else (replace(example, answer_prefix=one.prefix) for example in asked))


def completion_lines(plan: Plan, one: PlannedCompletions) -> str:
    """The examples of a data set of completions as JSON lines, each with its part where it has one."""
    lines = []
    for split, rows in plan.data[one.name].items():
        part = {} if split == WHOLE else {"split": split}
        for row in rows:
            plain = row.to_json()
            lines.append(json.dumps({**part, **(plain if isinstance(plain, dict) else {})}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _silent_pairs(split: str, written: Mapping[str, Sequence[tuple[Example, bool]]]) -> set[int]:
    """Numbers of the pairs of a part of which at least one side has nothing to read."""
    part = DataRef("", split).part
    rows = [said for other, examples in written.items() if DataRef("", other).part == part for said, _ in examples]
    return {said.pair for said in rows if not said.completion and said.pair is not None}


def _said(live: LiveModel, prompt: Example, ids: Sequence[int]) -> tuple[Example, bool]:
    """A prompt with what the model wrote behind it, and whether it is read as the very tokens that were written.

    Tokenizers that put the mark of a word's beginning before it lose the first space in decoding.
    """
    special = set(live.chat.tokenizer.all_special_ids)
    end = len(ids)
    while end and ids[end - 1] in special:
        end -= 1
    text = str(live.chat.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
    if not text.strip():
        return replace(prompt, completion=""), True
    for form in (text, f" {text}"):
        said = replace(prompt, completion=form)
        read = live.chat.render(said, completion=True)
        if list(read.token_ids[read.prompt :]) == list(ids[:end]):
            return said, True
    return replace(prompt, completion=text), False
