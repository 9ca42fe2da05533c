"""What a run's numbers don't show, by rules that need nothing but the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from steerkit.errors import counted
from steerkit.report.numbers import NO_BREAK, count, significant
from steerkit.report.search import SearchView
from steerkit.report.tables import Block

FEW_EXAMPLES: Final = 30
MANY_COMPARISONS: Final = 20
MEASURES_TOLD: Final = 3


def limits_of(own: Sequence[Block], searches: Sequence[SearchView], known: Sequence[str] = ()) -> tuple[str, ...]:
    """What can't be concluded, a sentence each.

    Args:
        own: the blocks that aren't derived from others.
        searches: of the run.
        known: what depends on the prompts that are measured, and what of prompts is read as special tokens, a sentence
            each.
    """
    if not any(block.measured for block in own):
        return ("Nothing was measured, so nothing can be said of what a direction does.", *known)
    found = [*_of_verdicts(own), *_of_sizes(own), *_of_controls(own), *_of_choices(own, searches), *known]
    compared = sum(row.value is not None for block in own for row in block.rows)
    if compared > MANY_COMPARISONS:
        found.append(
            f"Of {counted(compared, 'comparison')} with the baseline about {round(compared / 20)} would show a change "
            f"by chance "
            "alone."
        )
    found.append(
        f"The 95{NO_BREAK}% intervals are over prompts of these kinds; they say nothing of other models, other "
        "training prompts or another seed."
    )
    return tuple(found)


def is_verdict(block: Block) -> bool:
    """Whether it is a rate of verdicts on examples."""
    return block.evaluator.aggregate == "proportion" and block.evaluator.compared is not False


def reads_completions(block: Block) -> bool:
    """Whether its evaluator has the model write; a monitor's verdicts, for one, are of prompts."""
    return bool(block.evaluator.options.get("max_new_tokens"))


def every(number: int) -> str:
    """``both random directions``, ``all five random directions``."""
    return "both random directions" if number == 2 else f"all {count(number, 'random direction')}"


def _of_verdicts(own: Sequence[Block]) -> list[str]:
    rates = [block for block in own if is_verdict(block) and block.evaluator.role is None and reads_completions(block)]
    judges = [block for block in own if block.evaluator.role == "judge"]
    if not rates or any(block.measured for block in judges):
        return []
    names = list(dict.fromkeys(block.evaluator.name for block in rates))
    asked = ", ".join(dict.fromkeys(block.evaluator.name for block in judges))
    lead = f"{asked} gave no verdict" if asked else "No judge read the completions"
    return [f"{lead}: {', '.join(names)} {'goes' if len(names) == 1 else 'go'} by rules."]


def _of_sizes(own: Sequence[Block]) -> list[str]:
    sizes = [(block.n[0], is_verdict(block), block) for block in own if block.n is not None]
    small = [one for one in sizes if one[0] < FEW_EXAMPLES]
    if not small:
        return []
    n, rate, block = min(small, key=lambda one: (one[0], not one[1]))
    said = f"Few prompts: {block.name} has {count(n, 'example')}"
    if rate:
        # The largest rate of which n examples without a case are still seen once in 20 times.
        left = significant(100 * (1 - 0.05 ** (1 / n)), 2)
        said += f"; what none of {n} shows may still come up in {left}{NO_BREAK}% of such prompts"
    return [f"{said}."]


def _of_controls(own: Sequence[Block]) -> list[str]:
    measured = [
        (block, row) for block in own for row in block.rows if row.value is not None and not row.condition.prompt_only
    ]
    # A recipe may take a measure without controls: a condition has as many as any of its measures.
    most: dict[str, int] = {}
    for _, row in measured:
        number = 0 if row.control is None else len(row.control.values)
        most[row.condition.name] = max(most.get(row.condition.name, 0), number)
    if not most:
        return []
    least = min((number for number in most.values() if number), default=0)
    if not least:
        return [
            "No random directions were run: nothing tells what these directions do from what others of their norm do."
        ]
    found = []
    if least > 1:
        chance = f"one more would be beyond the others with probability 2 in {least + 1}"
        found.append(f"Beyond {every(least)} is a comparison, not a test: {chance}.")
    else:
        found.append("One random direction has no range to compare with.")
    if 0 in most.values():
        found.append("Some conditions have no random directions beside them.")
    without = [block.name for block, row in measured if row.control is None and most[row.condition.name]]
    names = list(dict.fromkeys(without))
    if names:
        left = len(names) - MEASURES_TOLD
        told = f"{', '.join(names[:MEASURES_TOLD])}{f' and {left} more' if left > 0 else ''}"
        found.append(f"Some measures were not taken of random directions: {told}.")
    return found


def _of_choices(own: Sequence[Block], searches: Sequence[SearchView]) -> list[str]:
    measured = {block.data for block in own}
    found = []
    for view in searches:
        seen = sorted({str(score.get("data")) for score in view.entry.scores.values()} & measured)
        if seen and view.chosen is not None:
            both = f"{view.entry.name} was chosen on {' and '.join(seen)}, and is measured there too"
            found.append(f"{both}, which flatters it.")
    return found
