"""The tokenizer inside a GGUF file.

Byte-level tokenizers are built here from what the file says. transformers reads their vocabulary and merges but not
``tokenizer.ggml.pre``, which names the pattern that splits the text first (without it SmolLM2's "\\n\\n1" is cut in the
wrong place), and its first 5.x versions give some of them the wrong end token as well. Others are left to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PREFIX: Final = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4

_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: Final = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
"""How many digits of a number go together, by ``tokenizer.ggml.pre``, in the pattern of Llama 3 and its kin."""


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, with its special tokens and its chat template. Prompts pad on the left."""
    facts = _facts(path)
    splitter = _splitter(str(facts.get("pre", "default")))
    if facts.get("model") != "gpt2" or splitter is None:
        return _plain(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True))
    tokens: list[str] = facts["tokens"]
    special = {
        f"{role}_token": tokens[int(facts[key])]
        for role, key in (
            ("bos", "bos_token_id"),
            ("eos", "eos_token_id"),
            ("pad", "padding_token_id"),
            ("unk", "unknown_token_id"),
        )
        if key in facts
    }
    tokenizer = _as_transformers_tokenizer(_byte_level(facts, splitter, special.get("bos_token")), special)
    tokenizer.chat_template = facts.get("chat_template")
    return tokenizer


def _facts(path: Path) -> dict[str, Any]:
    """What the file says under ``tokenizer.``, by its last names."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    found = {name.removeprefix(_PREFIX): field for name, field in fields.items() if name.startswith(_PREFIX)}
    if "tokenizer.chat_template" in fields:
        found["chat_template"] = fields["tokenizer.chat_template"]
    # Only what a byte-level tokenizer is made of: the lists of other kinds take seconds to read.
    kept = found if found["model"].contents() == "gpt2" else {"model": found["model"]}
    return {name: field.contents() for name, field in kept.items()}


def _splitter(pre: str) -> list[pre_tokenizers.PreTokenizer] | None:
    """What splits a text before merges, by ``tokenizer.ggml.pre``; None for what isn't known here."""
    if pre in ("default", "gpt-2"):
        return [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if pre == "smollm":
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if pre in _PATTERNS:
        words = Regex(_WORDS.format(digits=_PATTERNS[pre]))
        return [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    return None


def splitter_of(pre: str) -> list[pre_tokenizers.PreTokenizer]:
    """What splits a text before merges, by a name that is known here, as in ``qwen2``."""
    found = _splitter(pre)
    assert found is not None, pre
    return found


def _byte_level(facts: Mapping[str, Any], splitter: list[pre_tokenizers.PreTokenizer], begin: str | None) -> Tokenizer:
    tokens: list[str] = facts["tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["merges"]]
    llama_3 = facts.get("pre") == "llama-bpe"
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=llama_3))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitter)
    backend.decoder = decoders.ByteLevel()
    kinds = dict(zip(tokens, facts.get("token_type", ()), strict=False))
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in tokens if kinds.get(token) == _CONTROL]
    )
    backend.add_tokens([AddedToken(token, normalized=False) for token in tokens if kinds.get(token) == _USER_DEFINED])
    if begin is not None and facts.get("add_bos_token", llama_3):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, vocabulary[begin])]
        )
    return backend


def _plain(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same, free of the family's own class, whose constructor builds everything a second time at each load."""
    plain = _as_transformers_tokenizer(
        Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), tokenizer.special_tokens_map
    )
    plain.chat_template = tokenizer.chat_template
    return plain


def _as_transformers_tokenizer(backend: Tokenizer, special: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side="left", clean_up_tokenization_spaces=False, **special
    )
