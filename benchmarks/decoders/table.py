"""The table as it is kept: read, written, and held beside what is found now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from benchmarks.decoders.row import Row
from benchmarks.measure import RESULTS
from steerkit.sources import CAUSAL_TYPES, TINY_VARIANTS

TABLE: Final = RESULTS / "decoders.json"
NAMES: Final = (*CAUSAL_TYPES, *TINY_VARIANTS)
"""What has a row: every causal type, and variants."""


def read_table() -> dict[str, Row]:
    """The kept rows, by type; none where there is no table yet."""
    if not TABLE.is_file():
        return {}
    return {values["type"]: Row.from_dict(values) for values in json.loads(TABLE.read_text("utf-8"))["rows"]}


def write_table(rows: Iterable[Row]) -> None:
    """Keep rows, a line each, by type."""
    import torch
    import transformers

    versions = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}
    lines = ",\n".join(json.dumps(row.to_dict()) for row in sorted(rows, key=lambda row: row.type))
    TABLE.write_text(f'{{"versions": {json.dumps(versions)}, "rows": [\n{lines}\n]}}\n', "utf-8")


def changes(kept: Mapping[str, Row], found: Iterable[Row], only: Iterable[str] | None = None) -> list[str]:
    """What differs between rows as kept and as found, a line each: the type, what changed, from what to what.

    Args:
        kept: rows by type.
        found: rows of now.
        only: the fields that are compared; None: all.
    """
    return [line for row in found for line in _changed(kept.get(row.type), row, only)]


def _changed(before: Row | None, now: Row, only: Iterable[str] | None) -> Iterator[str]:
    if before is None:
        yield f"{now.type}: has no row yet; now {now.status}. Add it with `python -m benchmarks.decoders {now.type}`."
        return
    was, new = before.to_dict(), now.to_dict()
    for key in only if only is not None else {**was, **new}:
        if was.get(key) != new.get(key):
            yield f"{now.type}: {key} was {_told(was.get(key))}, now {_told(new.get(key))}."


def _told(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def missing(kept: Iterable[str], installed: Iterable[str]) -> list[str]:
    """What differs between the types that have rows and those that the installed transformers registers."""
    kept, installed = set(kept), set(installed)
    new = [f"{name}: new in the installed transformers, and has no row." for name in sorted(installed - kept)]
    return new + [f"{name}: no longer in the installed transformers." for name in sorted(kept - installed)]
