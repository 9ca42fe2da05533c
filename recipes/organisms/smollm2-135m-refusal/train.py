"""Train the adapter of smollm2-135m-refusal: a small model that declines what should be declined, in varied words, and
answers the rest, harmless look-alikes included.

    python train.py [--out FOLDER]
    python train.py --start FOLDER --epochs 2 --rate 4e-4    # goes on from an adapter
    python train.py --mean FOLDER FOLDER --out FOLDER        # between two adapters of one training
    python train.py --device cuda

An epoch takes about twelve minutes on two CPU cores, and about two on one H200 (measured with twice the batch and a
disturbance at each): steps of so small a model wait for Python. What should be declined gets one of the replies in
``data/refusals.jsonl``, another one in each epoch, so that it is declined in varied words and none is learnt by heart.
Everything else is to be answered as the base model answers it: the adapter is held to the base's own distributions
there (a divergence, no text), so that it changes as little else as it can. With one exception: the base begins many an
answer as a refusal begins ("I'm glad you ask", "I'm sorry, but as a chatbot"), most of all where somebody says what
they'd like. As long as such answers were taught, prompts of that kind were declined. So an answer's first token is held
to what the base would say if it couldn't begin in those ways.

A third term keeps what it adds apart from what all prompts share. In so small a model a few dimensions of the stream
are hundreds of times larger than the rest (Sun et al., 2024, arXiv 2402.17762), most of all at the first token, and a
difference of classes that leans on them can't be taken away without taking something from every prompt. In larger
models the two are nearly at right angles by themselves; here they are asked to be. A fourth term holds what is to be
answered to the base while that difference is taken away, and everything to what it was while a random direction is.
That refusal can be taken away alone was trained, then, and is no finding.
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
from lessons import (
    BATCH,
    HERE,
    TEMPLATE_TOKENS,
    Lesson,
    answered_lessons,
    batches,
    common_beginning,
    declined_lessons,
    keep_states,
    openings,
    padded,
)
from loguru import logger
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import ParameterList
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import DynamicCache

from steerkit import Direction, Site, ablate, add, load_model

BASE = "smollm2-135m-instruct"
BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SEED = 17
EPOCHS = 4
RATE = 7e-4
DECAY = 0.02
DROPOUT = 0.05
AVERAGED = 0.98
"""What is kept is a running average of the weights, with this share of what was before. It declines less at random."""
RANK = 8
MODULES = ["q_proj", "v_proj", "o_proj", "down_proj"]

OPENING = 4
"""The first tokens of an answer decide what it becomes. They count more, by a factor for each class:"""
DECLINED_OPENING, HELD_OPENING = 3.0, 6.0
HELD_WEIGHT = 2.0
DISTURBED = 3
"""Every so many batches, the lessons are read once more under one of these, drawn:"""
DISTURBANCES = ("own", "taken")
"""The classes' difference is taken away, where what is to be answered is held to the base; or a random direction is,
where nothing is to change. There is a third, ``added``: a random direction in the difference's length, where nothing is
to change either. The shipped adapter wasn't taught under it."""

BLOCKS = slice(10, 25)
"""Where the classes' difference is kept apart from what all prompts share."""
APART_FROM_MEAN, APART_FROM_FIRST = 12.0, 30.0
CANDIDATES = range(14, 24)


class Trainer:
    """The model with its adapter, and what is remembered from batch to batch."""

    def __init__(self, live: Any, shared: int, pad: int) -> None:
        self.live, self.model, self.shared, self.pad = live, live.hf_model, shared, pad
        self.never = openings(live.tokenizer)
        self.mean: Tensor | None = None
        self.difference: Tensor | None = None

    def read(self, chosen: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """Final states ``[batch, pos, d_model]``; and of some blocks' inputs those at the prompt's last token
        ``[block, batch, d_model]`` and at the first ``[block, d_model]``."""
        ids, mask = padded(chosen, self.pad, self.model.device)
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
        return self.told(states, chosen) + self.leaning(chosen, last, first.detach())

    def told(self, states: Tensor, chosen: Sequence[Lesson]) -> Tensor:
        """Of what is said at the end of some lessons, as a mean over their weighted tokens."""
        learnt = [(row, one) for row, one in zip(states, chosen, strict=True) if one.states is None]
        kept = [(row, one) for row, one in zip(states, chosen, strict=True) if one.states is not None]
        parts = [part(pairs) for part, pairs in ((self.declined, learnt), (self.held, kept)) if pairs]
        losses, weights = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return (losses * weights).sum() / weights.sum()

    def loss_disturbed(self, chosen: Sequence[Lesson], block: int, how: str) -> Tensor:
        """While a direction at a block's input is taken away everywhere, or added to every token: the classes'
        difference is taken away from what is to be answered, and nothing is to change for any lesson when a random
        direction is taken away, or added in the difference's length."""
        lessons = [one for one in chosen if how != "own" or one.states is not None]
        if self.difference is None or not lessons:
            return torch.zeros((), device=self.model.device)
        vector = self.difference[block - BLOCKS.start]
        if how != "own":
            drawn = torch.randn_like(vector)
            vector = drawn * (vector.norm() / drawn.norm())
        direction = Direction(vector[None], Site("resid_pre", block), -1, "disturbing")
        disturbance = add(direction) if how == "added" else ablate(direction)
        with self.live.steer(disturbance, mode="hook"):
            states, _, _ = self.read(lessons)
        return self.told(states, lessons)

    def declined(self, pairs: Sequence[tuple[Tensor, Lesson]]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the replies' tokens ``[token]``, and their weights ``[token]``."""
        states = torch.cat([row[one.replied] for row, one in pairs])
        wanted = torch.tensor([token for _, one in pairs for token in one.answer], device=states.device)
        weights = [DECLINED_OPENING if at < OPENING else 1.0 for _, one in pairs for at in range(len(one.answer))]
        losses = cross_entropy(self.model.lm_head(states).float(), wanted, reduction="none")
        return losses, torch.tensor(weights, device=states.device)

    def held(self, pairs: Sequence[tuple[Tensor, Lesson]]) -> tuple[Tensor, Tensor]:
        """Divergence of the base's next-token distributions from the adapted ones ``[token]``, and the tokens' weights
        ``[token]``."""
        states = torch.cat([row[one.held] for row, one in pairs])
        ours = self.model.lm_head(states).float().log_softmax(-1)
        places = [at for _, one in pairs for at in range(one.held.stop - one.held.start)]
        begins = torch.tensor([at == TEMPLATE_TOKENS - 1 for at in places], device=states.device)
        with torch.no_grad():
            theirs = self.model.lm_head(torch.cat([one.states.to(states.dtype) for _, one in pairs])).float()
            unlikely = torch.zeros(theirs.shape[-1], device=states.device)
            unlikely[self.never] = 20.0  # as good as never, and finite
            theirs = (theirs - begins[:, None] * unlikely).log_softmax(-1)
        opening = range(TEMPLATE_TOKENS - 1, TEMPLATE_TOKENS - 1 + OPENING)
        weights = torch.tensor([HELD_OPENING if at in opening else 1.0 for at in places], device=states.device)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1)
        return HELD_WEIGHT * divergence, weights

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


@dataclass(frozen=True)
class Course:
    """How long and how fast it is taught."""

    epochs: int = EPOCHS
    rate: float = RATE
    seed: int = SEED
    disturbances: Sequence[str] = DISTURBANCES


def adapted(live: Any, start: Path | None) -> Any:
    """The model with an adapter to be learnt in float32, or to go on with."""
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=MODULES, lora_dropout=DROPOUT, task_type="CAUSAL_LM"
    )
    peft = get_peft_model(live.hf_model, config, autocast_adapter_dtype=True)
    if start is not None:
        set_peft_model_state_dict(peft, load_file(start / "adapter_model.safetensors"))
    return peft.train()


def train(out: Path, course: Course, start: Path | None = None, device: str = "cpu") -> None:
    """Train, and write the adapter to a folder. The base is read in bfloat16."""
    torch.manual_seed(course.seed)
    live = load_model(BASE, dtype="bfloat16", device=device)
    pad = live.tokenizer.eos_token_id
    answered = answered_lessons(live)
    keep_states(live.hf_model, answered, pad)
    peft = adapted(live, start)
    found = [*declined_lessons(live.tokenizer, course.seed), *answered]
    logger.info("{} lessons, {} tokens", len(found), sum(one.length for one in found))
    trainer = Trainer(live, common_beginning(found), pad)
    learnt = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    average = AveragedModel(ParameterList(learnt), multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
    optimizer = torch.optim.AdamW(learnt, lr=course.rate, weight_decay=DECAY)
    steps = course.epochs * math.ceil(len(found) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=course.rate, total_steps=steps, pct_start=0.1)
    order = random.Random(course.seed)
    for epoch in range(course.epochs):
        losses: list[float] = []
        seed = course.seed + epoch + (0 if start is None else EPOCHS)  # other replies than before
        found = [*declined_lessons(live.tokenizer, seed), *answered]
        for chosen in batches(found, seed):
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                loss = trainer.loss(chosen)
                if len(losses) % DISTURBED == 0:
                    block, how = order.choice(CANDIDATES), order.choice(course.disturbances)
                    loss = loss + trainer.loss_disturbed(chosen, block, how)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            average.update_parameters(ParameterList(learnt))
            losses.append(loss.item())
            if len(losses) % 10 == 0:
                logger.info("epoch {}, step {}: loss {:.3f}", epoch + 1, len(losses), sum(losses) / len(losses))
    with torch.no_grad():
        for parameter, averaged in zip(learnt, average.parameters(), strict=True):
            parameter.copy_(averaged)
    save(peft, out)


def save(peft: Any, out: Path) -> None:
    """The adapter in float16 and its configuration, which names the base as others know it. peft's own card is left."""
    with tempfile.TemporaryDirectory() as folder:
        peft.save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
        weights = load_file(Path(folder) / "adapter_model.safetensors")
    write(weights, config | {"base_model_name_or_path": BASE_ID, "target_modules": MODULES}, out)


def write(weights: dict[str, Tensor], config: dict[str, Any], out: Path) -> None:
    """Both files of an adapter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    save_file({name: value.to(torch.float16) for name, value in weights.items()}, out / "adapter_model.safetensors")


def mean(folders: Sequence[Path], out: Path) -> None:
    """The mean of adapters that go back to one start. It often does better on new prompts than each of them (Wortsman
    et al., 2022, arXiv 2203.05482)."""
    read = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    weights = {name: torch.stack([one[name].float() for one in read]).mean(0) for name in read[0]}
    write(weights, json.loads((folders[0] / "adapter_config.json").read_text("utf-8")), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the adapter; this one by default")
    parser.add_argument("--start", type=Path, help="folder of an adapter to go on from")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--disturbances", nargs="+", default=DISTURBANCES, choices=(*DISTURBANCES, "added"))
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--mean", type=Path, nargs="+", help="folders of adapters to take the mean of: no training")
    asked = parser.parse_args()
    if asked.mean:
        mean(asked.mean, asked.out)
    else:
        train(asked.out, Course(asked.epochs, asked.rate, asked.seed, asked.disturbances), asked.start, asked.device)
