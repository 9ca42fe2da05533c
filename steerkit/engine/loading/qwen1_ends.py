"""What ends an answer of a Qwen 1 checkpoint: its ``generation_config.json``, as its own code reads it.

Of that file ``eos_token_id``, ``pad_token_id`` and ``chat_format`` are read. The format says what else its ``chat``
stops at: the two marks of a turn in ``chatml``, the format of the chat checkpoints, and in ``raw``, that of the base
checkpoints, the end of a text (and the word "Human:", of several tokens, at which nothing here can stop). How it
samples is nobody's default here: completions are greedy unless somebody asks for something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steerkit.engine.loading.qwen1_tokenizer import END_OF_TEXT, IM_END, IM_START
from steerkit.errors import ModelError

FILE: Final = "generation_config.json"
_STOPS: Final[Mapping[str, tuple[str, ...]]] = {"chatml": (IM_END, IM_START), "raw": (END_OF_TEXT,)}


@dataclass(frozen=True)
class Ends:
    """Token ids.

    Args:
        eos: at which an answer ends; empty where nothing says so.
        pad: what a row is filled with behind its end, or None.
    """

    eos: tuple[int, ...]
    pad: int | None


def read_ends(folder: Path, token_id: Callable[[str], int] | None, vocabulary: int, source: str) -> Ends:
    """What ends an answer.

    Args:
        folder: of the checkpoint. Without the file an answer ends at the end of a text and at the marks of a turn.
        token_id: gives the id of a special token; None where the checkpoint has no tokenizer.
        vocabulary: number of tokens.
        source: for messages.

    Raises:
        ModelError: where the file says something else than the checkpoint's own code takes.
    """
    said = _said(folder / FILE, source)
    written = said.get("eos_token_id")
    ids = list(written) if isinstance(written, list) else [] if written is None else [written]
    pad = said.get("pad_token_id")
    for key, value in (*(("eos_token_id", one) for one in ids), *((("pad_token_id", pad),) if pad is not None else ())):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
            raise _mistake(source, key, value, f"the id of one of its {vocabulary:,} tokens")
    form = said.get("chat_format", "chatml")
    if not isinstance(form, str) or form not in _STOPS:
        raise _mistake(source, "chat_format", form, " or ".join(_STOPS))
    if token_id is not None:
        ids += [token_id(text) for text in ([] if ids else [END_OF_TEXT]) + list(_STOPS[form])]
        pad = token_id(END_OF_TEXT) if pad is None else pad
    return Ends(tuple(dict.fromkeys(ids)), pad)


def _said(path: Path, source: str) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{source}: {FILE} can't be read ({error}). Mend it, or remove it.") from error
    if not isinstance(said, dict):
        raise ModelError(f"{source}: {FILE} holds no settings. Mend it, or remove it.")
    return said


def _mistake(source: str, key: str, value: object, expected: str) -> ModelError:
    return ModelError(f"{source}: {FILE} says {key}: {value!r}, where {expected} is expected. Mend it, or remove it.")
