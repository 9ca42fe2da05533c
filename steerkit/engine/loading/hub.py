"""What goes wrong between here and a model hub, in words that help."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from steerkit.bundled import BUNDLED
from steerkit.checkpoints import CONFIG
from steerkit.errors import ModelError, SteerkitError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_SPEAKING: Final = (OSError, ValueError, ImportError)
"""Errors that transformers raises with sentences of its own. Others say what went wrong with their names alone."""
PATIENCE: Final = 3.0
"""Seconds to wait for the hub to answer at all."""
COMMIT: Final = "_commit_hash"
"""The attribute of a config that holds the commit of a hub repository. Transformers writes it into no file."""


def is_reachable() -> bool:
    """Whether the hub answers. Asked once, because its client tries again for half a minute before it says no.

    True also where a proxy stands between: only the proxy knows.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if getproxies().keys() & {"all", endpoint.scheme}:
        return True
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@contextmanager
def explained(source: str, *, local: bool) -> Iterator[None]:
    """Turn what transformers raises while it loads ``source`` into a ``ModelError`` with a next step."""
    try:
        yield
    except (SteerkitError, MemoryError):
        raise
    except Exception as error:  # a damaged folder makes transformers raise anything
        if type(error).__name__ == "OutOfMemoryError":
            raise
        if type(error).__module__.partition(".")[0] in ("safetensors", "safetensors_rust", "tokenizers"):
            raise ModelError(f"{source} is damaged: {error}. Copy or download it anew.") from error
        raise ModelError(_advice_on_download(source, error, local=local)) from error


def _advice_on_download(source: str, error: Exception, *, local: bool) -> str:
    said = str(error).strip() if isinstance(error, _SPEAKING) else f"{type(error).__name__}: {str(error).strip()}"
    if "trust_remote_code" in said:
        return (
            f"{source} comes with Python code of its own and can't be loaded without running it. If you trust it, set "
            "trust_remote_code: true under model (in Python: trust_remote_code=True)."
        )
    if local and "backend tokenizer" in said:
        return (
            f"{source} can't be loaded: it has files of a tokenizer, and lacks the one with its vocabulary "
            "(tokenizer.json, tokenizer.model, or vocab.json beside merges.txt). Copy or download it anew."
        )
    if local and "ignore_mismatched_sizes" in said:
        return (
            f"{source} can't be loaded: weights in its safetensors are of other sizes than its config.json says. Copy "
            "or download both anew."
        )
    if local and (named := _named_in(Path(source) / CONFIG, said)):
        return f"{source} can't be loaded: in its {CONFIG} {named}, which transformers doesn't know. Copy it anew."
    if local and not isinstance(error, _SPEAKING):
        return (
            f"{source} can't be loaded: a value in its files (config.json, or a tokenizer's) is none that may stand "
            f"there ({_line(said)})"
        )
    if local:
        return f"{source} can't be loaded: {_line(said)}"
    names = _causes(error)
    if names & {"GatedRepoError"}:
        return f"{source} is gated. Agree to its terms on its page on the hub, then log in with `hf auth login`."
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        return f"The hub has no {source} (or the revision asked for), or it is private. {_offline()}"
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "ConnectTimeout"}:
        return f"{source} is not in the hub's cache here, and the hub can't be reached. {_offline()}"
    if "safetensors" in said:
        return (
            f"{source} has no safetensors weights. steerkit reads nothing else, because unpickling can run any code. "
            f"Look for a revision or a copy that has them. ({said.splitlines()[0]})"
        )
    return f"{source} can't be loaded: {said} {_offline()}"


def _named_in(config: Path, said: str) -> str:
    """The text among a config's values that an error quotes, with its key; empty where it quotes none."""
    try:
        left = [("", json.loads(config.read_text("utf-8")))]
    except (OSError, ValueError, RecursionError):
        return ""
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}".removeprefix("."), one) for name, one in value.items()]
        elif isinstance(value, str) and f"'{value}'" in said:
            return f"{key} is {value!r}"
    return ""


def _line(said: str) -> str:
    return " ".join(said.split())


def _offline() -> str:
    return (
        f"Without a hub there are: {', '.join(BUNDLED)} (through the package index), a folder with safetensors, "
        "or a .gguf file."
    )


def _causes(error: BaseException | None) -> set[str]:
    """The class names of an error, its bases, and everything it was raised from."""
    names: set[str] = set()
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names.update(base.__name__ for base in type(error).__mro__)
        error = error.__cause__ or error.__context__
    return names


def note_commit(source: str, revision: str | None, config: PreTrainedConfig) -> list[Path]:
    """Note on a config which commit of a hub repository was loaded: transformers 5 no longer does.

    Returns:
        the commit's safetensors in the local cache.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision)
    if not isinstance(found, str):
        return []
    folder = Path(found).parent  # the cache has a folder for each commit, of that name
    setattr(config, COMMIT, folder.name)
    return sorted(folder.glob("*.safetensors"))


def qwen1_snapshot(source: str, options: dict[str, Any]) -> Path:
    """The folder of a Qwen 1 repository in the local cache, with its weights, configs and vocabulary, fetched first.

    Args:
        source: its hub id.
        options: ``revision`` and ``local_files_only``, where they are set.

    Raises:
        ModelError: where the hub doesn't have it or can't be reached.
    """
    from huggingface_hub import snapshot_download

    from steerkit.engine.loading.qwen1 import FILES

    with explained(source, local=False):
        return Path(snapshot_download(source, allow_patterns=list(FILES), **options))
