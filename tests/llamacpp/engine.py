"""llama.cpp as tests use it: logits of token ids, with control vectors that its own loader has read."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llama_cpp
import numpy as np

from tests.llamacpp.environment import convert_script, loader

_F32 = 0


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    pass


def converted(checkpoint: Path | str, path: Path) -> Path:
    """A checkpoint as a GGUF in float32, by llama.cpp's convert script."""
    command = [sys.executable, str(convert_script()), "--outtype", "f32", "--outfile", str(path), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


def loaded(*files: Path) -> tuple[int, np.ndarray | None]:
    """What llama.cpp's loader reads from control vectors: its exit code, and ``[n, width]``, layer 1 first."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "numbers"
        done = subprocess.run([loader(), out, *files], capture_output=True, check=False)
        content = out.read_bytes()
    width = int(np.frombuffer(content[:4], np.int32)[0])
    return done.returncode, np.frombuffer(content[4:], np.float32).reshape(-1, width).copy() if width > 0 else None


class Engine:
    """A model in llama.cpp, in float32 throughout."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"{path} isn't loaded"
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = 256, 1, 1
        settings.type_k = settings.type_v = _F32
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context: Any = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.n_layers = llama_cpp.llama_model_n_layer(self.model)

    def close(self) -> None:
        """Let go of it."""
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def control(self, rows: np.ndarray | None) -> int:
        """Set control vectors, ``[n, width]`` from layer 1 on, at all layers, as llama-server does; None: none."""
        if rows is None:
            return int(llama_cpp.llama_set_adapter_cvec(self.context, None, 0, 0, 0, 0))
        pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        width, last = rows.shape[1], self.n_layers
        return int(llama_cpp.llama_set_adapter_cvec(self.context, pointer, rows.size, width, 1, last))

    def greedy(self, ids: Sequence[int], n_tokens: int) -> tuple[list[int], np.ndarray]:
        """The likeliest tokens behind a prompt, and the logits that each was chosen by, ``[n_tokens, vocab]``."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        chosen: list[int] = []
        rows, pending = [], list(ids)
        for _ in range(n_tokens):
            batch = (llama_cpp.llama_token * len(pending))(*pending)
            assert llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(batch, len(pending))) == 0
            found = llama_cpp.llama_get_logits_ith(self.context, -1)
            rows.append(np.ctypeslib.as_array(found, (self.vocabulary,)).copy())
            chosen.append(int(rows[-1].argmax()))
            pending = chosen[-1:]
        return chosen, np.stack(rows)
