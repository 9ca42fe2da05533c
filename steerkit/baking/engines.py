"""What other engines do with a checkpoint that transformers reads whole.

vLLM has classes of its own for many types. Its loaders leave a bias out that their class has no place for, without a
word, so whoever serves a checkpoint has to know. What stands here was read in vLLM 0.32.0's ``model_executor/models``;
a type that isn't here was not looked at. llama.cpp counts the tensors of a file, and says so where one is left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.engine.baking.folding import Change

VLLM: Final = "0.32.0"
"""The version that was looked at."""
_READS: Final[Mapping[str, frozenset[str]]] = {
    "llama": frozenset({"o_proj", "down_proj"}),
    "granite": frozenset({"o_proj", "down_proj"}),
    "qwen3": frozenset(),
    "qwen3_moe": frozenset(),
    "gemma": frozenset(),
}
"""Which projections into the stream have a bias where the config declares one, by model type."""


def notes_of(model_type: str, change: Change) -> tuple[str, ...]:
    """What to know before the checkpoint is served with vLLM; nothing where it reads all of it.

    Args:
        model_type: of the checkpoint.
        change: what it holds otherwise than the original.
    """
    kinds = {name: name.removesuffix(".bias").rpartition(".")[2] for name in change.biases}
    if not kinds:
        return ()
    reads = _READS.get(model_type)
    if reads is None:
        return (
            f"vLLM drops a bias that its own class of a type has no place for, without a word, and its class of "
            f"{model_type} was not looked at: compare its answers with transformers' before you serve this checkpoint "
            "with it.",
        )
    dropped = sorted({kind for kind in kinds.values() if kind not in reads})
    if not dropped:
        return ()
    number = sum(kind in dropped for kind in kinds.values())
    return (
        f"Don't serve this checkpoint with vLLM: its class of {model_type} (version {VLLM}) has no bias in "
        f"{' and '.join(dropped)} and drops {counted(number, 'constant')} without a word. Serve the condition with "
        "steerkit-vllm as a program (steerkit export).",
    )
