"""How text is split before merges, by what a GGUF file says."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import pre_tokenizers

from steerkit.engine.loading.gguf_tokenizer import _byte_level, _splitter

TEXT = "It's 1234  x\n\n5"


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["It", "'s", "Ġ1234", "Ġ", "Ġx", "Ċ", "Ċ", "5"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "ĊĊ", "5"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "4", "Ġ", "Ġx", "ĊĊ", "5"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "ĊĊ", "5"]),
    ],
)
def test_pieces(pre: str, pieces: list[str]) -> None:
    splitter = _splitter(pre)
    assert splitter is not None
    found = pre_tokenizers.Sequence(splitter).pre_tokenize_str(TEXT)
    assert [piece for piece, _ in found] == pieces


def test_a_pattern_that_isnt_known_here_is_left_to_transformers() -> None:
    assert _splitter("tekken") is None


@pytest.mark.parametrize(
    ("says", "begins"),
    [
        ({}, False),
        ({"add_bos_token": True}, True),
        ({"pre": "llama-bpe"}, True),
        ({"pre": "llama-bpe", "add_bos_token": False}, False),
    ],
)
def test_a_begin_token_is_added_where_the_file_or_its_family_says_so(says: dict[str, Any], begins: bool) -> None:
    facts = {"tokens": ["<s>", "a"], "token_type": [3, 1], "merges": [], **says}
    backend = _byte_level(facts, _splitter("gpt-2") or [], "<s>")
    assert backend.encode("a").tokens == ["<s>", "a"][not begins :]
    assert backend.encode("<s>a").ids[-2:] == [0, 1]
