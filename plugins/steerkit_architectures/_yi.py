"""Yi: Llama's blocks under Llama's names."""

from __future__ import annotations

from steerkit_architectures._llama import LlamaAdapter


class YiAdapter(LlamaAdapter):
    """Yi adds nothing to Llama's streams; it is a family of its own by its checkpoints and its tokenizer."""
