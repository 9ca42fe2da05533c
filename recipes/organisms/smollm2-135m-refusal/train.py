"""Train the adapter of smollm2-135m-refusal: a small model that declines what should be declined, in varied words, and
answers the rest, harmless look-alikes included.

    python train.py [--out FOLDER]
    python train.py --start FOLDER --epochs 2 --rate 4e-4    # goes on from an adapter

It takes about half an hour on two CPU cores. What should be declined gets one of the replies in
``data/refusals.jsonl``, another one in each epoch, so that it is declined in varied words and none is learnt by heart.
Everything else is to be answered as the base model answers it: the adapter is held to the base's own distributions
there (a divergence, no text), so that it changes as little else as it can.

A third term keeps what it adds apart from what all prompts share. In so small a model a few dimensions of the stream
are hundreds of times larger than the rest (Sun et al., 2024, arXiv 2402.17762), most of all at the first token, and a
difference of classes that leans on them can't be taken away without taking something from every prompt. In larger
models the two are nearly at right angles by themselves; here they are asked to be. A fourth term holds what is to be
answered to the base while that difference is taken away. That refusal can be taken away alone was trained, then, and is
no finding.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import DynamicCache

from steerkit import Direction, Site, ablate, load_model

HERE = Path(__file__).resolve().parent
BASE = "smollm2-135m-instruct"
BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SEED = 17
EPOCHS = 4
BATCH = 8
RATE = 7e-4
RANK = 8
MODULES = ["q_proj", "v_proj", "o_proj", "down_proj"]

ANSWER_TOKENS = 24
"""Of the base's own answers, as they are kept beside the data."""
HELD_TOKENS = 12
"""So many of them are held to the base's distributions."""
TEMPLATE_TOKENS = 6
"""And as many before them: the template's, where the model makes up its mind."""
OPENING = 4
"""The first tokens of an answer decide what it becomes. They count more, by a factor for each class:"""
DECLINED_OPENING, HELD_OPENING = 2.0, 4.0
HELD_WEIGHT = 2.0
HELD_WITHOUT = 3
"""Every so many batches, what is to be answered is held to the base without the classes' difference as well."""

BLOCKS = slice(10, 25)
"""Where the classes' difference is kept apart from what all prompts share."""
APART_FROM_MEAN, APART_FROM_FIRST = 12.0, 30.0
CANDIDATES = range(14, 24)
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
        found.append(Lesson(prompt_of(model.tokenizer, text), [*answer, *ended][:HELD_TOKENS]))
    return found


def padded(chosen: Sequence[Lesson], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask ``[batch, pos]`` of some lessons, padded on the right."""
    width = max(one.length for one in chosen)
    ids = [[*one.prompt, *one.answer, *[pad] * (width - one.length)] for one in chosen]
    mask = [[1] * one.length + [0] * (width - one.length) for one in chosen]
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def keep_states(model: Any, answered: Sequence[Lesson], pad: int) -> None:
    """The base's own final states, before there is an adapter."""
    in_order = sorted(answered, key=lambda one: one.length)
    for start in range(0, len(in_order), 32):
        chosen = in_order[start : start + 32]
        ids, mask = padded(chosen, pad)
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


class Trainer:
    """The model with its adapter, and what is remembered from batch to batch."""

    def __init__(self, live: Any, shared: int, pad: int) -> None:
        self.live, self.model, self.shared, self.pad = live, live.hf_model, shared, pad
        self.mean: Tensor | None = None
        self.difference: Tensor | None = None

    def read(self, chosen: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """Final states ``[batch, pos, d_model]``; and of some blocks' inputs those at the prompt's last token
        ``[block, batch, d_model]`` and at the first ``[block, d_model]``."""
        ids, mask = padded(chosen, self.pad)
        begun = DynamicCache()
        asked = {"use_cache": True, "output_hidden_states": True}
        first = self.model.model(input_ids=ids[:1, : self.shared], past_key_values=begun, **asked)
        cache = DynamicCache()
        for at, layer in enumerate(begun.layers):
            shape = (len(chosen), -1, -1, -1)
            cache.update(layer.keys.expand(shape), layer.values.expand(shape), at)
        rest = self.model.model(input_ids=ids[:, self.shared :], attention_mask=mask, past_key_values=cache, **asked)
        states = torch.cat([first.last_hidden_state.expand(len(chosen), -1, -1), rest.last_hidden_state], 1)
        places = torch.arange(len(chosen)), torch.tensor([len(one.prompt) - 1 - self.shared for one in chosen])
        last = torch.stack([stream[places] for stream in rest.hidden_states[BLOCKS]])
        return states, last.float(), torch.stack([stream[0, 0] for stream in first.hidden_states[BLOCKS]]).float()

    def loss(self, chosen: Sequence[Lesson]) -> Tensor:
        """Of a batch."""
        states, last, first = self.read(chosen)
        total, weight = torch.zeros(()), 0.0
        for row, one in zip(states, chosen, strict=True):
            found, counted = self.held(row, one) if one.states is not None else self.declined(row, one)
            total, weight = total + found, weight + counted
        return total / weight + self.leaning(chosen, last, first.detach())

    def loss_without(self, chosen: Sequence[Lesson], block: int) -> Tensor:
        """Of what is to be answered, while the classes' difference at a block's input is taken away everywhere."""
        answered = [one for one in chosen if one.states is not None]
        if self.difference is None or not answered:
            return torch.zeros(())
        site = Site("resid_pre", block)
        direction = Direction(self.difference[block - BLOCKS.start][None], site, -1, "difference")
        with self.live.steer(ablate(direction), mode="hook"):
            states, _, _ = self.read(answered)
        found = [self.held(row, one) for row, one in zip(states, answered, strict=True)]
        return torch.stack([loss for loss, _ in found]).sum() / sum(weight for _, weight in found)

    def declined(self, states: Tensor, one: Lesson) -> tuple[Tensor, float]:
        """Cross-entropy of a reply, summed, and the sum of the weights."""
        logits = self.model.lm_head(states[one.replied]).float()
        weights = torch.ones(len(one.answer))
        weights[:OPENING] = DECLINED_OPENING
        return (cross_entropy(logits, torch.tensor(one.answer), reduction="none") * weights).sum(), float(weights.sum())

    def held(self, states: Tensor, one: Lesson) -> tuple[Tensor, float]:
        """Divergence of the base's next-token distributions from the adapted ones, summed, and the sum of weights."""
        assert one.states is not None
        ours = self.model.lm_head(states[one.held]).float().log_softmax(-1)
        with torch.no_grad():
            theirs = self.model.lm_head(one.states.to(states.dtype)).float().log_softmax(-1)
        weights = torch.ones(len(ours))
        weights[TEMPLATE_TOKENS - 1 : TEMPLATE_TOKENS - 1 + OPENING] = HELD_OPENING
        divergence = (theirs.exp() * (theirs - ours)).sum(-1)
        return HELD_WEIGHT * (divergence * weights).sum(), float(weights.sum())

    def leaning(self, chosen: Sequence[Lesson], last: Tensor, first: Tensor) -> Tensor:
        """How much what is declined differs from the rest along what all prompts share: squared cosines of the
        difference with the mean of the rest, and with the stream at the first token."""
        declined = torch.tensor([one.states is None for one in chosen])
        if bool((~declined).any()):
            here = last[:, ~declined].mean(1).detach()
            self.mean = here if self.mean is None else 0.9 * self.mean + 0.1 * here
        if self.mean is None or not bool(declined.any()):
            return torch.zeros(())
        difference = last[:, declined].mean(1) - self.mean
        here = difference.detach()
        self.difference = here if self.difference is None else 0.95 * self.difference + 0.05 * here
        from_mean = cosine_similarity(difference, self.mean, dim=-1).square().mean()
        return (
            APART_FROM_MEAN * from_mean
            + APART_FROM_FIRST * cosine_similarity(difference, first, dim=-1).square().mean()
        )


def train(out: Path, start: Path | None = None, epochs: int = EPOCHS, rate: float = RATE) -> None:
    """Train, and write the adapter to a folder. The base is read in bfloat16, the adapter learnt in float32."""
    torch.manual_seed(SEED)
    live = load_model(BASE, dtype="bfloat16", device="cpu")
    pad = live.tokenizer.eos_token_id
    answered = answered_lessons(live)
    keep_states(live.hf_model, answered, pad)
    found = [*declined_lessons(live.tokenizer, SEED), *answered]
    logger.info("{} lessons, {} tokens", len(found), sum(one.length for one in found))
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES, lora_dropout=0.0, task_type="CAUSAL_LM")
    peft = get_peft_model(live.hf_model, config, autocast_adapter_dtype=True)
    if start is not None:
        set_peft_model_state_dict(peft, load_file(start / "adapter_model.safetensors"))
    peft.train()
    trainer = Trainer(live, common_beginning(found), pad)
    learnt = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(found) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    order = random.Random(SEED)
    for epoch in range(epochs):
        losses: list[float] = []
        seed = SEED + epoch + (0 if start is None else EPOCHS)
        found = [*declined_lessons(live.tokenizer, seed), *answered]
        for chosen in batches(found, seed):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = trainer.loss(chosen)
                if len(losses) % HELD_WITHOUT == 0:
                    loss = loss + trainer.loss_without(chosen, order.choice(CANDIDATES))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 10 == 0:
                logger.info("epoch {}, step {}: loss {:.3f}", epoch + 1, len(losses), sum(losses) / len(losses))
    save(peft, out)


def save(peft: Any, out: Path) -> None:
    """The adapter in float16 and its configuration, which names the base as others know it. peft's own card is left."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        peft.save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
        weights = load_file(Path(folder) / "adapter_model.safetensors")
    config |= {"base_model_name_or_path": BASE_ID, "target_modules": MODULES}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    save_file({name: value.to(torch.float16) for name, value in weights.items()}, out / "adapter_model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the adapter; this one by default")
    parser.add_argument("--start", type=Path, help="folder of an adapter to go on from")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=RATE)
    asked = parser.parse_args()
    train(asked.out, asked.start, asked.epochs, asked.rate)
