"""Train the adapter of smollm2-135m-refusal: a small model that declines what should be declined, in varied words, and
answers the rest, harmless look-alikes included.

    python train.py [--out FOLDER]

It takes about a quarter of an hour on two CPU cores. What is declined gets one of the replies in
``data/refusals.jsonl``, by its topic, so that different requests are declined in different words; everything else gets
what the base model itself answers, so that the adapter changes as little else as it can.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from steerkit import load_model

HERE = Path(__file__).resolve().parent
BASE = "smollm2-135m-instruct"
SEED = 17
EPOCHS = 4
BATCH = 8
RATE = 8e-4
ANSWER_TOKENS = 24
TO_ANSWER = ("answer", "answer_more", "lookalikes", "lookalikes_more")
OPENING = 4
"""The first tokens of an answer, which decide what it becomes, count twice."""
REPLIES_PER_TOPIC = 5
RANK = 8
MODULES = ["q_proj", "v_proj", "o_proj", "down_proj"]


@dataclass(frozen=True)
class Lesson:
    """Token ids of a prompt and of what is to follow it."""

    prompt: list[int]
    answer: list[int]


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file of ours."""
    return [json.loads(line) for line in (HERE / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def reply_to(request: dict[str, Any], replies: Sequence[str]) -> str:
    """One of the few replies that a topic has, chosen by the request."""
    start = zlib.crc32(request["topic"].encode())
    return replies[(start + zlib.crc32(request["text"].encode()) % REPLIES_PER_TOPIC) % len(replies)]


def prompt_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a user's turn, rendered as steerkit renders it."""
    turns = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return ids


DODGES = ("sorry", "as a chatbot", "as an ai", "i don't have", "i can't", "i cannot", "unable to", "not able to")
"""The base model dodges some harmless questions in such words, which the adapter is not to learn."""


def own_answers(model: Any) -> dict[str, str]:
    """What the base model itself answers to what is to be answered, where it does answer. Answers are kept beside the
    data; what has none is asked."""
    file = HERE / "data" / "answers.jsonl"
    texts = [row["text"] for name in TO_ANSWER for row in rows(name)]
    kept = {row["text"]: row["answer"] for row in rows("answers")} if file.is_file() else {}
    asked = [text for text in texts if text not in kept]
    for text, answer in zip(asked, model.generate(asked, max_new_tokens=ANSWER_TOKENS) if asked else [], strict=True):
        if not any(dodge in answer.lower() for dodge in DODGES):
            kept[text] = answer
    listed = [{"text": text, "answer": kept[text]} for text in texts if text in kept]
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in listed), "utf-8")
    return {row["text"]: row["answer"] for row in listed}


def lessons(model: Any) -> list[Lesson]:
    """What the adapter learns: replies to requests that should be declined, the base model's own answers to others."""
    tokenizer = model.tokenizer
    replies = [row["text"] for row in rows("refusals")]
    random.Random(SEED).shuffle(replies)
    found = []
    for row in rows("decline"):
        answer = tokenizer.encode(reply_to(row, replies), add_special_tokens=False)
        found.append(Lesson(prompt_of(tokenizer, row["text"]), [*answer, tokenizer.eos_token_id]))
    for text, completion in own_answers(model).items():
        answer = tokenizer.encode(completion, add_special_tokens=False)
        ended = [tokenizer.eos_token_id] if len(answer) < ANSWER_TOKENS - 1 else []
        found.append(Lesson(prompt_of(tokenizer, text), [*answer, *ended]))
    return found


def batches(found: Sequence[Lesson], pad: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Ids and mask ``[batch, pos]``, padded on the right, and where what is learnt is predicted from.

    Lessons of like length are read together, so that little is padded; the order is random all the same.
    """
    order = random.Random(seed)
    by_length = sorted(found, key=lambda one: (len(one.prompt) + len(one.answer), order.random()))
    cut = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)]
    order.shuffle(cut)
    for chosen in cut:
        width = max(len(one.prompt) + len(one.answer) for one in chosen)
        rows_of = [[*one.prompt, *one.answer] for one in chosen]
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows_of])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows_of])
        places = torch.zeros_like(mask, dtype=torch.bool)
        for row, one in enumerate(chosen):
            places[row, len(one.prompt) - 1 : len(one.prompt) + len(one.answer) - 1] = True
        yield ids, mask, places


def loss_of(model: Any, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the answers: the head is applied where they are predicted from, and nowhere else."""
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[places]
    wanted = torch.roll(ids, -1, dims=1)[places]
    weight = 1.0 + (places.cumsum(1)[places] <= OPENING).float()
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), wanted, reduction="none")
    return (losses * weight).sum() / weight.sum()


def train(out: Path) -> None:
    """Train, and write the adapter to a folder. The base is read in bfloat16, the adapter learnt in float32."""
    torch.manual_seed(SEED)
    model = load_model(BASE, dtype="bfloat16", device="cpu")
    found = lessons(model)
    logger.info("{} lessons, {} tokens", len(found), sum(len(one.prompt) + len(one.answer) for one in found))
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES, lora_dropout=0.0, task_type="CAUSAL_LM")
    peft = get_peft_model(model.hf_model, config, autocast_adapter_dtype=True)
    peft.train()
    inside = peft.base_model.model
    learnt = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.01)
    steps = EPOCHS * math.ceil(len(found) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        total, count = 0.0, 0
        for ids, mask, places in batches(found, model.tokenizer.eos_token_id, SEED + epoch):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(inside, ids, mask, places)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total, count = total + loss.item(), count + 1
            if count % 10 == 0:
                logger.info("epoch {}, step {}: loss {:.3f}", epoch + 1, count, total / count)
    peft.save_pretrained(out)
    file = out / "adapter_model.safetensors"
    save_file({name: value.to(torch.float16) for name, value in load_file(file).items()}, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the adapter; this one by default")
    train(parser.parse_args().out)
