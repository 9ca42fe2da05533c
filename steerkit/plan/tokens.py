"""How many tokens texts have, from a model's tokenizer files where they are at hand, without transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from steerkit.errors import ModelError
from steerkit.plan.model import chat_template, special_names
from steerkit.templates import Locator, Render, answer_opening, compiled, messages_of, opened
from steerkit.types import Example

_CHARACTERS_PER_TOKEN: Final = 4
_TEMPLATE_TOKENS: Final = 10
_LARGEST_TOKENIZER: Final = 20_000_000
"""Bytes of a tokenizer file. Reading a larger one (Gemma's) takes seconds, and a check is to be quick."""


Reading: TypeAlias = Literal["prompt", "whole", "text"]
"""What of an example is read: its prompt; its prompt with its completion, where it has one; or what evaluators read
along, which for a plain text is the text by itself."""

_Counts: TypeAlias = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens of examples.

    Args:
        prompts: from examples to the number of tokens of each, as a prompt.
        texts: the same for raw texts.
        behind: the same for completions, without special tokens.
        estimated: whether the numbers are estimates.
        basis: where they come from, in words.
    """

    prompts: Callable[[Sequence[Example]], list[int]]
    texts: _Counts
    behind: _Counts
    estimated: bool
    basis: str

    def count(self, examples: Sequence[Example], how: Reading = "prompt") -> list[int]:
        """Tokens of each example."""
        if how == "text" and all(example.is_plain for example in examples):
            return self.texts([example.text for example in examples])
        if how == "text":
            examples = list(map(opened, examples))
        found = self.prompts(examples)
        if how == "prompt":
            return found
        behind = self.behind([example.completion or "" for example in examples])
        found = [prompt + more for prompt, more in zip(found, behind, strict=True)]
        if how == "whole":
            return found
        raw = self.texts([example.text for example in examples])
        return [raw[at] if example.is_plain else found[at] for at, example in enumerate(examples)]


def token_counter(
    folder: Path | None,
    template: str,
    system_prompt: str | None,
    arguments: Mapping[str, Any] | None = None,
    *,
    instead: bool = False,
) -> TokenCounter:
    """The best counter that a model's files allow.

    Args:
        folder: the model's files, or None.
        template: ``default``, ``none``, or a Jinja template.
        system_prompt: the recipe's, or a condition's.
        arguments: of the template.
        instead: whether the system prompt takes the place of a conversation's own.
    """
    raw = _raw_counter(folder) if folder is not None else None
    if folder is None or raw is None:
        large = folder is not None and (folder / "tokenizer.json").is_file()
        why = "too large to be read in a moment" if large else "not at hand"
        return _estimate(template, system_prompt, why)
    plain, behind = raw(True), raw(False)
    if template == "none":
        return TokenCounter(_of_texts(plain), plain, behind, False, "counted with the model's tokenizer")
    source = chat_template(folder) if template == "default" else template
    render = _renderer(folder, source, system_prompt, arguments or {}, instead) if source is not None else None

    def count(examples: Sequence[Example]) -> list[int]:
        assert render is not None
        return behind([render(example) for example in examples])

    try:
        if render is not None:
            render(Example.of("probe"))
            basis = "counted with the model's tokenizer and chat template"
            return TokenCounter(count, plain, behind, False, basis)
    except Exception:
        # A template may hold any mistake, and may need what only transformers provides; the load will say which.
        pass
    basis = f"counted with the model's tokenizer; its chat template is taken for {_TEMPLATE_TOKENS} tokens a turn"
    return TokenCounter(_of_texts(plain, _TEMPLATE_TOKENS), plain, behind, True, basis)


def turns_shown(
    folder: Path | None, template: str, system_prompt: str | None, arguments: Mapping[str, Any]
) -> Callable[[Example], list[tuple[str, bool]]]:
    """A function that tells each turn's role, and whether the template shows it so that its place can be told.

    What can't be rendered here is taken for shown: the load will say what is wrong with it.
    """
    source: str | None = template
    if template in ("default", "none"):
        source = chat_template(folder) if folder is not None and template == "default" else None
    locators: dict[bool, Locator] = {}
    if source is not None:
        with suppress(Exception):
            for closed in (False, True):
                locators[closed] = Locator(_template(folder, source, not closed, arguments))

    def shown(example: Example) -> list[tuple[str, bool]]:
        messages = messages_of(example, system_prompt)
        spans: Sequence[object] = [True] * len(messages)
        if locators:
            with suppress(Exception):
                locator = locators[example.is_closed]
                spans = locator.locate(messages, locator.render(messages))
        return [(message["role"], span is not None) for message, span in zip(messages, spans, strict=True)]

    return shown


def _template(folder: Path | None, source: str, generation: bool, arguments: Mapping[str, Any]) -> Render:
    """A template as the engine renders it."""
    names = special_names(folder) if folder is not None else {}
    return partial(compiled(source, names), add_generation_prompt=generation, **arguments)


def _of_texts(count: _Counts, extra: int = 0) -> Callable[[Sequence[Example]], list[int]]:
    """Counts examples by the texts of their turns."""

    def counted(examples: Sequence[Example]) -> list[int]:
        texts = [
            "\n".join(message.content for message in example.messages) + (example.answer_prefix or "")
            for example in examples
        ]
        return [n + extra * len(one.messages) for n, one in zip(count(texts), examples, strict=True)]

    return counted


def _estimate(template: str, system_prompt: str | None, why: str) -> TokenCounter:
    extra = 0 if template == "none" else _TEMPLATE_TOKENS + len(system_prompt or "") // _CHARACTERS_PER_TOKEN

    def behind(texts: Sequence[str]) -> list[int]:
        return [-(-len(text) // _CHARACTERS_PER_TOKEN) for text in texts]

    def plain(texts: Sequence[str]) -> list[int]:
        return [n + 1 for n in behind(texts)]

    basis = f"an estimate, {_CHARACTERS_PER_TOKEN} characters a token: the model's tokenizer is {why}"
    return TokenCounter(_of_texts(plain, extra), plain, behind, True, basis)


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
            found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
            counts = [len(item.ids) for item in found]
            for place, item in enumerate(found):
                if special and item.ids[:1] == item.ids[1:2]:
                    # A text that begins with the begin token gets no second one.
                    bare = tokenizer.encode(texts[place], add_special_tokens=False).ids
                    counts[place] -= len(bare) < len(item.ids) and bare[:1] == item.ids[:1]
            return counts

        return count

    return counter


def _renderer(
    folder: Path, source: str, system_prompt: str | None, arguments: Mapping[str, Any], instead: bool
) -> Callable[[Example], str]:
    """Renders an example as the engine does."""
    templates = {closed: _template(folder, source, not closed, arguments) for closed in (False, True)}

    def render(example: Example) -> str:
        messages = messages_of(example, system_prompt, instead=instead)
        text = templates[example.is_closed](messages)
        if example.answer_prefix is None:
            return text
        return text + answer_opening(messages, text, _refusing(templates[True])) + example.answer_prefix

    return render


def _refusing(render: Render) -> Render:
    """A template whose refusals are told as the engine tells them."""

    def rendered(messages: Any) -> str:
        try:
            return render(messages)
        except Exception as error:
            raise ModelError(f"The chat template can't render this: {error}.") from error

    return rendered


def prefix_fault(
    folder: Path | None, template: str, system_prompt: str | None, arguments: Mapping[str, Any]
) -> Callable[[Example], str | None]:
    """A function that tells why an answer can't begin as an example says, as far as a chat template is at hand."""
    source: str | None = template
    if template in ("default", "none"):
        source = chat_template(folder) if folder is not None and template == "default" else None

    def fault(example: Example) -> str | None:
        if source is None or example.answer_prefix is None or example.is_closed:
            return None
        messages = messages_of(example, system_prompt)
        try:
            prompt = _template(folder, source, True, arguments)(messages)
            answer_opening(messages, prompt, _refusing(_template(folder, source, False, arguments)))
        except ModelError as error:
            return str(error).rstrip(".")
        except Exception:
            return None  # the load will say what is wrong with the template
        return None

    return fault
