"""Hashes of weights for provenance: of everything where that is quick, of a sample that says so where it isn't."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.bundled import manifest_sha256

if TYPE_CHECKING:
    from torch import Tensor

WHOLE: Final = 256 << 20
"""Bytes of a file up to which all of it is hashed: about half a second."""

_SAMPLES: Final = 64
_SAMPLE: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def hash_of_files(paths: Iterable[Path]) -> str | None:
    """One hash for the files that hold a model's weights, or None where there are none.

    ``sha256:…`` covers every byte. ``sha256-sampled:…`` covers, of at least one large file, its size and 64
    evenly spaced pieces of 1 MiB. Paths and times don't count; names and their order do.
    """
    whole = True
    digest = hashlib.sha256()
    files = sorted(paths, key=lambda path: path.name)
    for path in files:
        known = _known_sha256(path)
        content = known or _sha256(path)
        whole = whole and (known is not None or path.stat().st_size <= WHOLE)
        digest.update(f"{path.name} {path.stat().st_size} {content}\n".encode())
    return f"{'sha256' if whole else 'sha256-sampled'}:{digest.hexdigest()}" if files else None


def hash_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """One hash for small tensors in memory: names, dtypes, shapes and bits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _known_sha256(path: Path) -> str | None:
    """What somebody computed before: our manifest, or the hub cache, which names large files by their sha256."""
    known = manifest_sha256(path)
    if known is not None:
        return known
    blob = path.resolve()
    return blob.name if path.is_symlink() and _SHA256.fullmatch(blob.name) else None


def _sha256(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for index in range(_SAMPLES):
            file.seek(index * (size - _SAMPLE) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
        return digest.hexdigest()
