"""A judge on this machine: a sequence classifier, or a causal model that is asked in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from steerkit.errors import ModelError
from steerkit_evaluators.judge import is_sequence_classifier

TOO_LONG = ""
"""The answer to a text that is longer than the model reads: it names no label, so it counts as not parsed."""


@lru_cache(maxsize=1)
def classifier(folder: str, digest: str, max_tokens: int) -> Classifier:
    """The model of a folder, loaded once.

    Args:
        folder: where it lies.
        digest: of its files: others are another model.
        max_tokens: most tokens that a causal model writes.
    """
    return Classifier(folder, max_tokens)


class Classifier:
    """Answers with the likeliest label, or with what a causal model writes (greedy). Texts are read one by one, so that
    none depends on its company.

    Args:
        folder: of the checkpoint.
        max_tokens: most tokens of an answer.

    Raises:
        ModelError: where it can't be loaded.
    """

    def __init__(self, folder: str, max_tokens: int) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        self.max_tokens, self.trouble = max_tokens, ""
        self.classifies = is_sequence_classifier(folder)
        kind: Any = AutoModelForSequenceClassification if self.classifies else AutoModelForCausalLM
        path = str(Path(folder).expanduser())
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self.model: Any = kind.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:  # transformers raises what it likes for a damaged or unknown checkpoint
            raise ModelError(
                f"The judge in {folder} can't be loaded: {type(error).__name__}: {error}. Give the folder of a "
                "sequence classifier or of a causal model as save_pretrained writes it, with its tokenizer."
            ) from error
        self.model.requires_grad_(False)

    @torch.no_grad()
    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        """One answer each."""
        return [self._label(text) if self.classifies else self._written(text) for text in questions]

    def _label(self, text: str) -> str:
        read = self.tokenizer(text, return_tensors="pt")
        if read["input_ids"].shape[1] > self._most():
            return TOO_LONG
        known = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
        (logits,) = self.model(**known).logits
        place = int(logits.argmax()) if len(logits) > 1 else int(logits[0] > 0)
        return str(self.model.config.id2label.get(place, f"LABEL_{place}"))

    def _written(self, text: str) -> str:
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": text}]
            rendered = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            read = self.tokenizer(rendered, return_tensors="pt", add_special_tokens=False)
        else:
            read = self.tokenizer(text, return_tensors="pt")
        ids = read["input_ids"]
        if ids.shape[1] + self.max_tokens > self._most():
            return TOO_LONG
        written = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_tokens, do_sample=False
        )
        return str(self.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))

    def _most(self) -> int:
        """Tokens that the model reads."""
        said = getattr(self.model.config, "max_position_embeddings", None)
        return min(int(self.tokenizer.model_max_length), said if isinstance(said, int) else 1 << 30)
