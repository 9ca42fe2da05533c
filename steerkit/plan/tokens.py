"""How many tokens texts have, from a model's tokenizer files where they are at hand, without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steerkit.plan.model import chat_template, read_json, token_text

_CHARACTERS_PER_TOKEN: Final = 4
_TEMPLATE_TOKENS: Final = 10
_LARGEST_TOKENIZER: Final = 20_000_000
"""Bytes of a tokenizer file. Reading a larger one (Gemma's) takes seconds, and a check is to be quick."""


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens of prompts (through the chat template) and of raw texts.

    Args:
        prompts: from texts to the number of tokens of each, as a prompt.
        texts: the same for raw texts.
        estimated: whether the numbers are estimates.
        basis: where they come from, in words.
    """

    prompts: Callable[[Sequence[str]], list[int]]
    texts: Callable[[Sequence[str]], list[int]]
    estimated: bool
    basis: str


def token_counter(folder: Path | None, template: str, system_prompt: str | None) -> TokenCounter:
    """The best counter that a model's files allow.

    Args:
        folder: the model's files, or None.
        template: ``default``, ``none``, or a Jinja template.
        system_prompt: the recipe's.
    """
    raw = _raw_counter(folder) if folder is not None else None
    if folder is None or raw is None:
        large = folder is not None and (folder / "tokenizer.json").is_file()
        why = "too large to be read in a moment" if large else "not at hand"
        return _estimate(template, system_prompt, why)
    if template == "none":
        return TokenCounter(raw(True), raw(True), False, "counted with the model's tokenizer")
    source = chat_template(folder) if template == "default" else template
    render = _renderer(folder, source, system_prompt) if source is not None else None
    try:
        if render is not None:
            render("probe")
            counted = raw(False)
            basis = "counted with the model's tokenizer and chat template"
            return TokenCounter(lambda texts: counted([render(text) for text in texts]), raw(True), False, basis)
    except Exception:
        # A template may hold any mistake, and may need what only transformers provides; the load will say which.
        pass
    plain = raw(True)
    basis = f"counted with the model's tokenizer; its chat template is taken for {_TEMPLATE_TOKENS} tokens"
    return TokenCounter(lambda texts: [n + _TEMPLATE_TOKENS for n in plain(texts)], plain, True, basis)


def _estimate(template: str, system_prompt: str | None, why: str) -> TokenCounter:
    extra = 0 if template == "none" else _TEMPLATE_TOKENS + len(system_prompt or "") // _CHARACTERS_PER_TOKEN

    def count(texts: Sequence[str], extra: int = 1) -> list[int]:
        return [-(-len(text) // _CHARACTERS_PER_TOKEN) + extra for text in texts]

    basis = f"an estimate, {_CHARACTERS_PER_TOKEN} characters a token: the model's tokenizer is {why}"
    return TokenCounter(lambda texts: count(texts, 1 + extra), count, True, basis)


def _raw_counter(folder: Path) -> Callable[[bool], Callable[[Sequence[str]], list[int]]] | None:
    file = folder / "tokenizer.json"
    if not file.is_file() or file.stat().st_size > _LARGEST_TOKENIZER:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:
        # The library raises bare Exceptions for files of another version; the load will say what is wrong.
        return None

    def counter(special: bool) -> Callable[[Sequence[str]], list[int]]:
        def count(texts: Sequence[str]) -> list[int]:
            return [len(item.ids) for item in tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)]

        return count

    return counter


def _renderer(folder: Path, source: str, system_prompt: str | None) -> Callable[[str], str]:
    """Renders one user turn as transformers does: the same sandbox, the same names in it."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from steerkit.templates import strftime_now

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = strftime_now
    config = read_json(folder / "tokenizer_config.json")
    names: dict[str, Any] = {key: token_text(value) for key, value in config.items() if key.endswith("_token")}
    compiled = environment.from_string(source)
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

    def render(text: str) -> str:
        messages = [*system, {"role": "user", "content": text}]
        return compiled.render(messages=messages, add_generation_prompt=True, **names)

    return render
