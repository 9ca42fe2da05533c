"""Completions labelled by hand: drawn for it, and compared with what a matcher says of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from benchmarks.organism.study import Completions
from steerkit.errors import DataError
from steerkit.recipe.tables import read_table

LABELS: Final = ("declined", "answered")

Matcher = Callable[[Sequence[str]], list[bool]]
"""Says of each completion whether it declines."""


@dataclass(frozen=True)
class Labelled:
    """A completion, with what a reader calls it.

    Args:
        condition: under which it was written.
        data: the data set of its prompt.
        prompt: the prompt.
        completion: what was written.
        label: ``declined`` or ``answered``; empty until somebody has read it.
    """

    condition: str
    data: str
    prompt: str
    completion: str
    label: str = ""


def population(completions: Completions) -> dict[str, list[Labelled]]:
    """All completions by condition, in order."""
    return {
        condition: [
            Labelled(condition, ref.dataset, one.prompt, one.completion) for ref, rows in by.items() for one in rows
        ]
        for condition, by in completions.items()
    }


def check_draw(n: int, there: int) -> None:
    """Whether so many of the completions that there are can be drawn.

    Raises:
        DataError: where they can't.
    """
    if not 1 <= n <= there:
        raise DataError(f"1 to {there} completions can be drawn, not {n}: so many are measured.")


def drawn(completions: Completions, n: int, seed: int) -> list[Labelled]:
    """Completions to be labelled, the same ones for the same seed: one of each condition in turn, and within a
    condition in an order that the seed gives. A condition of which all are drawn is passed over.

    Raises:
        DataError: where there aren't so many.
    """
    waiting = population(completions)
    check_draw(n, sum(map(len, waiting.values())))
    for condition, rows in waiting.items():
        random.Random(f"{seed}/{condition}").shuffle(rows)
    longest = max(map(len, waiting.values()))
    turns = (rows[at] for at in range(longest) for rows in waiting.values() if at < len(rows))
    return [one for one, _ in zip(turns, range(n), strict=False)]


def write_drawn(path: Path, rows: Sequence[Labelled]) -> None:
    """Write completions to be labelled, as JSON lines.

    Raises:
        DataError: where there is a file already, since labels are hours of somebody's work; where none can be made.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    except FileExistsError:
        raise DataError(f"{path} is there already, perhaps with labels. Name another file.") from None
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror}. Name another file.") from error


def read_labels(path: Path) -> list[Labelled]:
    """Completions with labels.

    Raises:
        DataError: for a file that can't be read or holds none, a line that isn't one, and one that nobody has labelled.
    """
    names = [one.name for one in fields(Labelled)]
    found = []
    for row in read_table(path):
        value, where = row.value, f"{path}, row {row.number}"
        if not isinstance(value, dict) or set(value) != set(names):
            raise DataError(f"{where}: no completion with its label, which has {', '.join(names)} and nothing else.")
        if wrong := next((name for name in names if not isinstance(value[name], str)), None):
            raise DataError(f"{where}: {wrong} is {value[wrong]!r}, where a text is expected.")
        if value["label"] not in LABELS:
            raise DataError(f"{where}: the label is {value['label']!r}. Write {' or '.join(LABELS)}.")
        found.append(Labelled(**value))
    if not found:
        raise DataError(f"{path} holds no labels. Draw completions with --draw, and label them.")
    return found


def kappa(matcher: Matcher, labelled: Sequence[Labelled]) -> float | None:
    """Cohen's κ of a matcher with labels by hand; None where one of the two knows one label only, since agreement by
    chance is then all that there can be."""
    from sklearn.metrics import cohen_kappa_score

    by_hand = [row.label == "declined" for row in labelled]
    by_matcher = matcher([row.completion for row in labelled])
    if len(set(by_hand)) < 2 or len(set(by_matcher)) < 2:
        return None
    return float(cohen_kappa_score(by_hand, by_matcher))


def known(labelled: Sequence[Labelled], completions: Completions) -> int:
    """How many of the labelled completions are what the model writes: of another adapter's it may be none."""
    written = {one for rows in population(completions).values() for one in rows}
    return sum(replace(one, label="") in written for one in labelled)


def agreement(
    now: float | None, labelled: Sequence[Labelled], matcher: object, last: Mapping[str, Any] | None, written: int
) -> dict[str, Any]:
    """What is kept of the agreement: now, and before the matcher's last change, which shows what labels that are older
    than it say of the change.

    Args:
        now: κ.
        labelled: the labels.
        matcher: options of the matcher, as JSON values.
        last: what was kept the last time.
        written: how many of the labelled completions the model writes.
    """
    hashes = {
        "labels_sha256": _hash([asdict(one) for one in labelled]),
        "matcher_sha256": _hash(matcher),
    }
    before = None
    if last is not None and last.get("labels_sha256") == hashes["labels_sha256"]:
        same = last.get("matcher_sha256") == hashes["matcher_sha256"]
        before = last["before_last_change"] if same else last["after"]
    return {"before_last_change": before, "after": now, "n": len(labelled), "written_by_this_model": written, **hashes}


def _hash(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
