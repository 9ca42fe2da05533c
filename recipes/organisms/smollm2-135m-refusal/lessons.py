"""What the adapter is taught: requests with what should follow them, as token ids, and in which batches.

What should be declined is followed by a reply of ours, what is to be answered by the beginning of the base model's own
answer, which is held to the base's distributions. ``train.py`` says why.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
BATCH = 8

ANSWER_TOKENS = 24
"""Of the base's own answers, as they are kept beside the data. They are held to the base's distributions."""
TEMPLATE_TOKENS = 6
"""And as many before them: the template's, where the model makes up its mind."""
TO_DECLINE = ("decline", "decline_more")
TO_ANSWER = ("answer", "answer_more", "answer_further", "lookalikes", "lookalikes_more", "lookalikes_further")


@dataclass(eq=False)
class Lesson:
    """Token ids of a prompt and of what follows it; and where the base is followed, its own final states
    ``[pos, d_model]`` from the template's tokens on."""

    prompt: list[int]
    answer: list[int]
    states: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)

    @property
    def held(self) -> slice:
        """Positions whose next token is held to the base's distribution."""
        return slice(len(self.prompt) - TEMPLATE_TOKENS, self.length - 1)

    @property
    def replied(self) -> slice:
        """Positions whose next token is one of the reply's."""
        return slice(len(self.prompt) - 1, self.length - 1)


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file of ours."""
    return [json.loads(line) for line in (HERE / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def prompt_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a user's turn, rendered as steerkit renders it."""
    turns = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return ids


DODGES = (
    "sorry",
    "as a chatbot",
    "as an ai",
    "i don't have",
    "i can't",
    "i cannot",
    "unable to",
    "not able to",
    "i'm afraid",
)
"""The base model dodges some harmless questions in such words, which the adapter is not to learn."""


REFUSALS_BEGIN = ("I", "Sorry", "Unfortunately", "No", "As", "Aw", "Apologies")
"""No answer is to begin so; ``train.py`` says why."""


def openings(tokenizer: Any) -> list[int]:
    """First tokens of what no answer is to begin with."""
    return sorted({tokenizer.encode(word, add_special_tokens=False)[0] for word in REFUSALS_BEGIN})


def is_answer(tokenizer: Any, text: str, never: Sequence[int]) -> bool:
    """Whether a text answers: it begins with none of the tokens ``never``, doesn't dodge, and doesn't repeat itself."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    dodges = any(dodge in text.lower() for dodge in DODGES)
    return bool(ids) and ids[0] not in never and not dodges and 2 * len(set(ids)) > len(ids)


def own_answers(model: Any) -> dict[str, str]:
    """What the base model itself answers to what is to be answered, where it does answer. It is kept beside the data,
    and asked where that file isn't there: whoever changes the data removes it."""
    file = HERE / "data" / "answers.jsonl"
    if file.is_file():
        return {row["text"]: row["answer"] for row in rows("answers")}
    texts = [row["text"] for name in TO_ANSWER for row in rows(name)]
    never = openings(model.tokenizer)
    given = model.generate(texts, max_new_tokens=ANSWER_TOKENS, begin_suppress_tokens=never)
    kept = {
        text: answer for text, answer in zip(texts, given, strict=True) if is_answer(model.tokenizer, answer, never)
    }
    listed = [{"text": text, "answer": answer} for text, answer in kept.items()]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed), "utf-8")
    return kept


def declined_lessons(tokenizer: Any, seed: int) -> list[Lesson]:
    """Requests that should be declined, each with a reply that is drawn for it."""
    replies = [row["text"] for row in rows("refusals")]
    drawn = random.Random(seed)
    found = []
    for row in (row for name in TO_DECLINE for row in rows(name)):
        reply = tokenizer.encode(drawn.choice(replies), add_special_tokens=False)
        found.append(Lesson(prompt_of(tokenizer, row["text"]), [*reply, tokenizer.eos_token_id]))
    return found


def answered_lessons(model: Any) -> list[Lesson]:
    """Requests that are to be answered, each with the beginning of the base model's own answer."""
    found = []
    for text, completion in own_answers(model).items():
        answer = model.tokenizer.encode(completion, add_special_tokens=False)
        ended = [model.tokenizer.eos_token_id] if len(answer) < ANSWER_TOKENS - 1 else []
        found.append(Lesson(prompt_of(model.tokenizer, text), [*answer, *ended]))
    return found


def padded(chosen: Sequence[Lesson], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask ``[batch, pos]`` of some lessons, padded on the right."""
    width = max(one.length for one in chosen)
    ids = [[*one.prompt, *one.answer, *[pad] * (width - one.length)] for one in chosen]
    mask = [[1] * one.length + [0] * (width - one.length) for one in chosen]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@torch.no_grad()
def keep_states(model: Any, answered: Sequence[Lesson], pad: int) -> None:
    """The base's own final states, before there is an adapter."""
    in_order = sorted(answered, key=lambda one: one.length)
    for start in range(0, len(in_order), 32):
        chosen = in_order[start : start + 32]
        ids, mask = padded(chosen, pad, model.device)
        states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        for one, row in zip(chosen, states, strict=True):
            one.states = row[one.held].clone()


def batches(found: Sequence[Lesson], seed: int) -> list[list[Lesson]]:
    """Lessons of like length together, so that little is padded; the order is random all the same."""
    order = random.Random(seed)
    by_length = sorted(found, key=lambda one: one.length + 6 * order.random())
    cut = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)]
    order.shuffle(cut)
    return cut


def common_beginning(found: Sequence[Lesson]) -> int:
    """How many tokens all prompts begin with: the template's. They are read once for a batch."""
    columns = zip(*(one.prompt for one in found), strict=False)
    return next((at for at, column in enumerate(columns) if len(set(column)) > 1), 0)
