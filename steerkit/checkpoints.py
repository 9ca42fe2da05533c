"""What keeps a folder from being a model's, told by its files and keys, without torch: for plans and loads alike.

Transformers reads a config as it is and fails later, where a number is divided by: the file and the key are forgotten
by then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from steerkit.errors import counted
from steerkit.types.json_text import RepeatedKeyError, read_json

CONFIG: Final = "config.json"
_READ: Final = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Small files that are read whole."""
_INDEX: Final = "model.safetensors.index.json"
_TOKENIZER: Final = "tokenizer.json"
"""A large file, of which only the ends are looked at."""
_TOKENIZERS: Final = (
    *(_TOKENIZER, "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model"),
    "qwen.tiktoken",
)
_PICKLED: Final = (".bin", ".pt", ".pth")
_SIZES: Final = (
    *(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
    ),
    *("vocab_size", "max_position_embeddings", "n_embd", "n_head", "n_layer", "n_positions", "seq_length"),
)
_DEPTHS: Final = ("num_hidden_layers", "n_layer")
_DEEPEST: Final = 10_000
_LARGEST: Final = 2**31 - 1
"""No count of anything is larger, and some readers hold no larger number."""
_NUMBERS: Final = (
    *("max_length", "max_new_tokens", "min_length", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams"),
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "initializer_range", "sliding_window"),
    *("attention_chunk_size", "partial_rotary_factor", "final_logit_softcapping", "attn_logit_softcapping"),
    *("query_pre_attn_scalar", "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"),
)
_ROPE: Final = ("rope_parameters", "rope_scaling")
_ABOVE_0: Final = ("factor", "rope_theta", "original_max_position_embeddings")
"""Of a mapping of ``_ROPE``, or of those within it for kinds of layers."""
EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How names of embeddings end, ``[vocab_size, hidden_size]``."""
_MAPPINGS: Final = ("rope_scaling", "rope_parameters", "text_config", "quantization_config")
_FLAGS: Final = (
    *("output_attentions", "output_hidden_states", "output_scores", "do_sample", "return_dict_in_generate"),
    *("tie_word_embeddings", "attention_bias", "is_encoder_decoder", "use_cache"),
)
_TOKENS: Final = ("eos_token_id", "bos_token_id", "pad_token_id")
_LONGEST: Final = 60


def folder_fault(folder: Path, *, whole: bool = True) -> str | None:
    """What keeps a folder from being loaded, as a sentence without a full stop; None where its files tell nothing.

    Args:
        folder: of the model.
        whole: whether weights have to be there. A plan can be made before they are.
    """
    for name in (*_READ, _INDEX):
        fault = _read_fault(folder / name)
        if fault is not None:
            return fault
    return config_fault(folder) or _ends_fault(folder / _TOKENIZER) or _weights_fault(folder, whole)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def tokenizer_fault(folder: Path) -> str | None:
    """That a folder has weights and no tokenizer, without which no text can be read; None before weights are there."""
    if has_tokenizer(folder) or not any(folder.glob("*.safetensors")):
        return None
    return f"{folder} holds no tokenizer, by which texts become tokens: copy or download its files too ({_TOKENIZER})"


def gguf_fault(path: Path) -> str | None:
    """That a file doesn't begin as a GGUF does."""
    with path.open("rb") as file:
        head = file.read(4)
    return (
        None if head == b"GGUF" else f"{path} is not a GGUF file: it begins with {head!r}. Was the download cut short?"
    )


def config_fault(folder: Path) -> str | None:
    """What is wrong with the values of a folder's configs; None where nothing is that could be told."""
    for name in (CONFIG, "generation_config.json"):
        if (folder / name).is_file():
            fault = _read_fault(folder / name)
            found = None if fault is not None else _values_fault(json.loads((folder / name).read_text("utf-8")))
            if fault is not None or found is not None:
                return fault or f"{folder / name}: {found}"
    return _tokenizer_fault(folder / "tokenizer_config.json")


def _tokenizer_fault(path: Path) -> str | None:
    """That a tokenizer's config gives no number of tokens that it takes. It may be any, where there is no limit."""
    if not path.is_file():
        return None
    fault = _read_fault(path)
    limit = None if fault is not None else json.loads(path.read_text("utf-8")).get("model_max_length")
    if limit is None or (isinstance(limit, (int, float)) and not isinstance(limit, bool)):
        return fault
    return f"{path}: model_max_length is {_shown(limit)}, where a number is expected"


def _read_fault(path: Path) -> str | None:
    """That a file which is there can't be read, or holds no JSON object."""
    try:
        if not path.is_symlink() and not path.exists():
            return None
        if not path.is_file():
            return f"{path} is no file: it is a folder, a pipe or a link to nothing"
        value = read_json(path.read_text("utf-8"))
    except OSError as error:
        return f"{path} can't be read ({error.strerror or error})"
    except RepeatedKeyError as error:
        return f"{path}: {error}. Keep one, or copy or download the file anew"
    except RecursionError:
        return f"{path} is nested too deeply to be read: copy or download it anew"
    except ValueError as error:
        return f"{path} is not JSON ({error}): copy or download it anew"
    return None if isinstance(value, dict) else f"{path} holds no JSON object: copy or download it anew"


def _ends_fault(path: Path) -> str | None:
    """That a file which is there doesn't begin and end as a JSON object does."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(max(0, path.stat().st_size - 64))
            tail = file.read()
    except OSError as error:
        return f"{path} can't be read ({error.strerror or error})"
    whole = head.lstrip().startswith(b"{") and tail.rstrip().endswith(b"}")
    return None if whole else f"{path} is cut off, or no JSON object: copy or download it anew"


def _values_fault(config: Mapping[str, Any], inside: str = "") -> str | None:
    for key, value in config.items():
        expected = _expected(key, value)
        if expected is not None:
            return f"{inside}{key} is {_shown(value)}, where {expected} is expected"
    inner = config.get("text_config")
    found = None if inner is None else _values_fault(inner, f"{inside}text_config.")
    ropes = (_rope_fault(config[key], f"{inside}{key}.") for key in _ROPE if isinstance(config.get(key), Mapping))
    return found or next(filter(None, ropes), None) or _shares_fault(config, inside)


def _rope_fault(rope: Mapping[str, Any], inside: str) -> str | None:
    """That a number of how positions are turned is none that could be."""
    for key, value in rope.items():
        if isinstance(value, Mapping):
            found = _rope_fault(value, f"{inside}{key}.")
            if found is not None:
                return found
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in _ABOVE_0 and value is not None and not (number and value > 0):
            return f"{inside}{key} is {_shown(value)}, where a number above 0 is expected"
    return None


def _expected(key: str, value: Any) -> str | None:
    """What a key should hold, where it holds something else."""
    if value is None:
        return None
    if key in (*_SIZES, *_TOKENS) and isinstance(value, int) and abs(value) > _LARGEST:
        return f"a number of at most {_LARGEST:,}"
    if key in _DEPTHS and isinstance(value, int) and value > _DEEPEST:
        return f"a number of at most {_DEEPEST:,}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    # Some families have one size for each layer.
    sizes = value if isinstance(value, list) and value else [value]
    if key in _SIZES and not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in sizes):
        return "a whole number above 0"
    if key in _NUMBERS and not number:
        return "a number"
    if key in _MAPPINGS and not isinstance(value, Mapping):
        return "an object"
    if key in _FLAGS and not isinstance(value, bool):
        return "true or false"
    if key == "model_type" and not isinstance(value, str):
        return "a text"
    if key in _TOKENS:
        listed = key == "eos_token_id" and isinstance(value, list)
        if not (whole or (listed and all(isinstance(one, int) and not isinstance(one, bool) for one in value))):
            return "the number of a token" + (", or a list of such" if key == "eos_token_id" else "")
    return None


def _shares_fault(config: Mapping[str, Any], inside: str) -> str | None:
    """That a width can't be shared among heads."""
    width, heads, groups = (config.get(key) for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if isinstance(width, int) and isinstance(heads, int) and config.get("head_dim") is None and width < heads:
        return f"{inside}hidden_size is {width}, too few for {inside}num_attention_heads {heads}"
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        return f"{inside}num_key_value_heads is {groups}, by which {inside}num_attention_heads {heads} can't be divided"
    words, padding = config.get("vocab_size"), config.get("pad_token_id")
    if isinstance(words, int) and isinstance(padding, int) and padding >= words:
        return f"{inside}pad_token_id is {padding}, and {inside}vocab_size is {words}: it numbers tokens from 0"
    return None


def _weights_fault(folder: Path, whole: bool) -> str | None:
    """That a folder holds no weights that are read."""
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    for name in weights:
        if not (folder / name).is_file():
            return f"{folder / name} is no file: it is a folder, a pipe or a link to nothing"
    if weights:
        frames = (_frame_fault(folder / name) for name in weights)
        return _lacking_fault(folder, names) or next(filter(None, frames), None) or _embedding_fault(folder, weights)
    if any(name.endswith(_PICKLED) for name in names):
        return (
            f"{folder} holds pickled weights only (.bin, .pt). Unpickling can run any code, so steerkit doesn't. In a "
            "place where you trust the file, load it with transformers and write it with model.save_pretrained(folder)"
        )
    return f"{folder} has a config.json but no weights (*.safetensors). Was the download cut short?" if whole else None


def _lacking_fault(folder: Path, names: Collection[str]) -> str | None:
    """That an index of weights lists files that aren't there."""
    listed: Any = {}
    if (folder / _INDEX).is_file():
        listed = json.loads((folder / _INDEX).read_text("utf-8")).get("weight_map") or {}
    files = {str(name) for name in listed.values()} if isinstance(listed, Mapping) else set()
    lacking = sorted(files - set(names))
    if not lacking:
        return None
    return (
        f"{folder} lacks {len(lacking)} of {counted(len(files), 'file')} of weights that {_INDEX} lists, such as "
        f"{lacking[0]}: copy or download what is missing"
    )


def _frame_fault(path: Path) -> str | None:
    """That safetensors doesn't read a file of weights. It looks at header and length, and at no number."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return None
    except (SafetensorError, OSError, ValueError) as error:
        return f"{path} is damaged or cut off ({error}): copy or download it anew"


def _embedding_fault(folder: Path, weights: Sequence[str]) -> str | None:
    """That no embedding among the weights has as many rows and columns as the config says."""
    from steerkit.api.direction_bytes import read_header

    path = folder / CONFIG
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if config.get("is_encoder_decoder") or config.get("model_type") == "qwen":
        return None  # which is refused for what it is, or read by ways of its own, which say what doesn't fit
    inner = config.get("text_config")
    inside, own = ("text_config.", inner) if isinstance(inner, Mapping) else ("", config)
    sizes = [own.get(key) for key in ("vocab_size", "hidden_size")]
    held: list[tuple[str, str, list[Any]]] = []
    for name in weights:
        try:
            header, _ = read_header(folder / name)
        except (OSError, ValueError):
            return None  # the load will say what is wrong with it
        told = {key: one.get("shape") for key, one in (header or {}).items() if isinstance(one, Mapping)}
        held += [(name, key, shape) for key, shape in told.items() if key.endswith(EMBEDDINGS) and shape]
    for place, key in enumerate(("vocab_size", "hidden_size")):
        if (
            isinstance(sizes[place], int)
            and held
            and all(shape[place : place + 1] != [sizes[place]] for *_, shape in held)
        ):
            name, tensor, shape = held[0]
            return (
                f"{path}: {inside}{key} is {sizes[place]}, and the embedding in {name} is "
                f"{' × '.join(map(str, shape))} ({tensor}): they are of two models. Copy or download both anew"
            )
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
