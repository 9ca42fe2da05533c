"""Qwen 1's tokenizer, which is a file of ranks for tiktoken, as a fast tokenizer of transformers.

tiktoken joins whatever two neighbours make the token of least rank; ``tokenizers`` joins pairs that it is given, in
their order. The two agree where each token can be made in one way only: its bytes, joined by the ranks below its own,
end as two parts. Then whenever that token's rank is due, the bytes of it that nothing has been joined across are those
two parts, and no other pair of neighbours makes it. A file with a token that ends otherwise is refused.

What is left to differ is the Unicode of the libraries: ``tokenizers`` normalises by version 13, so marks that later
versions have added aren't put in order.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.errors import ModelError, counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{index}|>" for index in range(205)))
"""In the order of their ids, which follow those of the file."""

_ADVICE: Final = (
    "Convert the tokenizer in a place where its own code runs, into a tokenizer.json beside the weights written as a "
    "Qwen2ForCausalLM, and name that folder"
)


def qwen1_tokenizer(path: Path, *, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a ``qwen.tiktoken``: byte-level merges, NFC, Qwen's split of words; prompts pad on the left.

    It has no chat template: Qwen 1 builds its prompts in code.

    Args:
        path: the file of ranks: lines of a token in base64 and its rank.
        vocabulary: how many tokens the model has an embedding for.

    Raises:
        ModelError: where the file isn't one, or where merges can't say what its ranks say.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from steerkit.engine.loading.gguf_tokenizer import splitter_of

    ranks = read_ranks(path)
    if len(ranks) + len(SPECIAL_TOKENS) > vocabulary:
        raise ModelError(
            f"{path} has {counted(len(ranks), 'token')} beside {len(SPECIAL_TOKENS)} special ones, and the model has "
            f"embeddings "
            f"for {vocabulary}. Is it another model's file?"
        )
    written = _byte_letters()
    texts = {token: "".join(written[byte] for byte in token) for token in ranks}
    merges = [(texts[left], texts[right]) for left, right in merges_of(ranks, path)]
    backend = Tokenizer(models.BPE(vocab={texts[token]: rank for token, rank in ranks.items()}, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitter_of("qwen2"))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens and their ranks, in the order of ranks, which are their ids.

    Raises:
        ModelError: where the file is damaged, or lacks one of the 256 bytes or a rank.
    """
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise ModelError(f"{path} can't be read: a line isn't a token in base64 and its rank ({error}).") from error
    ordered = dict(sorted(ranks.items(), key=lambda item: item[1]))
    if list(ordered.values()) != list(range(len(ordered))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ModelError(f"{path} is damaged: ranks aren't 0, 1, 2, …, or a byte has none. Download it anew.")
    return ordered


def merges_of(ranks: Mapping[bytes, int], path: Path) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token of more than a byte, in the order of ranks.

    Raises:
        ModelError: for a token that ranks below its own don't leave in two parts.
    """
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _joined(token, ranks, rank)
            if len(parts) != 2:
                raise ModelError(
                    f"{path} can't be used exactly: token {rank} ({token!r}) is left in {counted(len(parts), 'part')} "
                    f"by the "
                    f"ranks below it, so no list of merges says what the file says. {_ADVICE}."
                )
            merges.append((parts[0], parts[1]))
    return merges


def _joined(token: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """The bytes of a token, neighbours joined as tiktoken does it: always the first pair of least rank."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 1:
        rank, place = min((ranks.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1))
        if rank >= below:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _byte_letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte: itself where it prints, else one from U+0100 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
