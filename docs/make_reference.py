"""The pages of ``docs/reference``, made from docstrings and specs.

make reference            writes them
make reference CHECK=1    says what is stale or lacks words, and writes nothing
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
API: Final = (
    *(f"steerkit.api.{name}" for name in ("hookspecs", "architecture", "direction", "estimator", "evaluator")),
    *(f"steerkit.api.{name}" for name in ("format", "condition", "intervention", "monitor", "tokens")),
    *("steerkit.types", "steerkit.errors", "steerkit.testing"),
)
"""What a plugin may import."""
MADE: Final = "<!-- Made by `make reference` from docstrings and specs. Don't edit it. -->\n"
_SECTIONS: Final = ("Args", "Attributes", "Returns", "Yields", "Raises")


class Words:
    """What is written, and what lacks words."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.lacking: list[str] = []

    def add(self, *lines: str) -> None:
        """Add paragraphs, with an empty line behind each."""
        for line in lines:
            self.lines += [line, ""]

    def require(self, words: str | None, where: str) -> str:
        """The words, or a note that they lack."""
        if not words or not words.strip():
            self.lacking.append(where)
        return (words or "").strip()

    def page(self, title: str) -> str:
        """The whole page."""
        return "\n".join([f"# {title}", "", MADE, *self.lines]).rstrip() + "\n"


# Docstrings and signatures


def markdown(doc: str) -> str:
    """A docstring as Markdown: its sections as lists."""
    paragraphs: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        head, _, rest = block.partition("\n")
        section = head.rstrip(":")
        if head.endswith(":") and section in _SECTIONS:
            paragraphs.append(f"*{section}:*\n\n{_items(textwrap.dedent(rest), section)}")
        elif block.startswith("    ") or re.match(r"(import|from) steerkit", block):
            paragraphs.append(f"```python\n{textwrap.dedent(block)}\n```")
        else:
            paragraphs.append(" ".join(block.split()))
    return _ticks("\n\n".join(paragraphs))


def _items(text: str, section: str) -> str:
    """``name: words`` as a list; what is set in goes on with the line before."""
    joined: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and joined:
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    if section in ("Returns", "Yields"):
        return " ".join(joined)
    return "\n".join(re.sub(r"^([\w*][\w*, ]*): ", r"- `\1`: ", line) for line in joined)


def _ticks(text: str) -> str:
    """Code in single ticks; outside of it, ``<`` is no mark-up."""
    parts = re.split(r"(```.*?```|`[^`]+`)", re.sub(r"``(.+?)``", r"`\1`", text), flags=re.DOTALL)
    return "".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


def signature(function: Any, name: str) -> str:
    """How a function is called, as its source has it, without ``self``."""
    node = _tree(function)
    parts = list(_arguments_of(node.args))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _tree(function: Any) -> ast.FunctionDef:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def _arguments_of(given: ast.arguments) -> Iterator[str]:
    """Each argument with its type and default."""
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    for at, (argument, default) in enumerate(zip(plain, defaults, strict=True)):
        if at or argument.arg not in ("self", "cls"):
            yield _argument(argument, default)
    if given.vararg:
        yield f"*{_argument(given.vararg)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg:
        yield f"**{_argument(given.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    equals = " = " if kind else "="
    return f"{argument.arg}{kind}{f'{equals}{ast.unparse(default)}' if default is not None else ''}"


# Python


def tell(words: Words, name: str, thing: Any, level: str = "##") -> None:
    """A function or a class with its methods."""
    words.add(f"{level} {name}")
    if inspect.isclass(thing):
        _tell_class(words, name, thing)
    else:
        words.add(f"```python\n{signature(thing, name)}\n```", markdown(words.require(thing.__doc__, name)))


def _tell_class(words: Words, name: str, thing: type) -> None:
    made = vars(thing).get("__init__")
    if inspect.isfunction(made) and made.__module__.startswith("steerkit") and _has_source(made):
        words.add(f"```python\n{signature(made, name)}\n```")
    # A dataclass without words of its own has its signature for them.
    doc = vars(thing).get("__doc__")
    words.add(markdown(words.require(None if (doc or "").startswith(f"{name}(") else doc, name)))
    seen: set[str] = set()
    for owner in thing.__mro__:
        if not owner.__module__.startswith("steerkit"):
            continue
        for member, value in vars(owner).items():
            if member.startswith(("_", "test_")) or member in seen or member in vars(thing).get("__annotations__", {}):
                continue
            seen.add(member)
            _tell_member(words, name, member, value)


def _tell_member(words: Words, name: str, member: str, value: Any) -> None:
    function = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
    if not inspect.isfunction(function):
        return
    said = markdown(words.require(function.__doc__, f"{name}.{member}"))
    if isinstance(value, property) or hasattr(value, "func"):
        words.add(f"**`{name}.{member}`**: {said}")
    else:
        called = signature(function, f"{name}.{member}")
        words.add(f"```python\n{called}\n```", said)


def _has_source(function: Any) -> bool:
    try:
        inspect.getsource(function)
    except (OSError, TypeError):
        return False
    return True


def python_page(words: Words) -> str:
    """Every public name of ``steerkit``."""
    import steerkit

    words.add("What `import steerkit` gives. [Plugins](plugin-api.md) import other modules.")
    for name in dir(steerkit):
        if not name.startswith("_"):
            tell(words, f"steerkit.{name}", getattr(steerkit, name))
    return words.page("Python")


def plugin_api_page(words: Words) -> str:
    """Every class and function of the modules that a plugin may import."""
    words.add("What a plugin imports. [How to write one](../own-plugin.md).")
    for path in API:
        module = importlib.import_module(path)
        words.add(f"## {path}", markdown(words.require(module.__doc__, path)))
        package = path if hasattr(module, "__path__") else ""
        listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in listed:
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "") or ""
            ours = home == path or (package and home.startswith(f"{path}."))
            if ours and (inspect.isclass(thing) or inspect.isfunction(thing)):
                tell(words, name, thing, "###")
    return words.page("What plugins import")


# Specs and sections


def plugins_page(words: Words) -> str:
    """Every plugin that comes with steerkit, with its options."""
    from steerkit.catalog import KINDS, Catalog

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    modules = [importlib.import_module(path) for path in project["entry-points"]["steerkit"].values()]
    entries = Catalog.from_modules(*modules).entries
    words.add("What comes with steerkit. `steerkit plugins` lists these and all others that are installed.")
    for kind in KINDS:
        words.add(f"## {kind.plural.capitalize()}")
        for entry in (one for one in entries if one.kind == kind.name):
            where = f"{kind.name} {entry.name}"
            words.add(f"### {entry.name}", words.require(entry.spec.summary if entry.spec else "", where))
            facts = {key: getattr(entry.spec, key, ()) for key in ("model_types", "refuses", "suffixes", "values")}
            for key, held in facts.items():
                if held:
                    words.add(f"{key.replace('_', ' ').capitalize()}: {', '.join(f'`{one}`' for one in held)}.")
            options(words, [(one.name, one.type, _default(one), one.description) for one in entry.options], where)
    return words.page("Plugins and their options")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "computed" if option.computed else f"`{json.dumps(option.default, ensure_ascii=False)}`"


def options(words: Words, rows: Iterable[tuple[str, str, str, str]], where: str) -> None:
    """A table of options, each of which needs words."""
    rows = list(rows)
    if not rows:
        return
    lines = ["| option | type | default | what it is |", "|---|---|---|---|"]
    for name, kind, default, said in rows:
        lines.append(_line(f"`{name}`", f"`{kind}`", default, _ticks(words.require(said, f"{where}: {name}"))))
    words.add("\n".join(lines))


def _line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def recipe_page(words: Words) -> str:
    """Every key of a recipe."""
    from steerkit.catalog import describe_options
    from steerkit.recipe.problems import INTERNAL
    from steerkit.recipe.schema import Recipe

    words.add(
        "Every key that a recipe may have. Beside them `extends` names a recipe that it is laid over, and `profiles` "
        "holds changes by name (`--profile`). [The language by examples](../recipes.md); options of estimators, "
        "interventions and evaluators are with [their plugins](plugins.md)."
    )
    for model in _sections(Recipe):
        words.add(f"## {_called(model)}", markdown(words.require(model.__doc__, model.__name__)))
        hidden = {name for name, info in model.model_fields.items() if info.json_schema_extra == INTERNAL}
        told: Callable[[Any], Any] = describe_options
        rows = [one for one in told(model) if one.name not in hidden]
        table = []
        for one in rows:
            # A section stands by itself, further down.
            held = list(_models(model.model_fields[one.name].annotation))
            kind = re.sub(r"(\w+)Recipe\b", lambda found: found[1].lower(), one.type)
            table.append((one.name, kind, "" if held and not one.required else _default(one), one.description))
        options(words, table, _called(model))
    return words.page("Recipes")


def _sections(model: type[BaseModel], seen: list[type[BaseModel]] | None = None) -> list[type[BaseModel]]:
    """A section and all that it may hold, each once."""
    seen = [] if seen is None else seen
    if model not in seen:
        seen.append(model)
        for info in model.model_fields.values():
            for inner in _models(info.annotation):
                _sections(inner, seen)
    return seen


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _called(model: type[BaseModel]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__.removesuffix("Recipe") or "Recipe").capitalize()


def commands_page(words: Words) -> str:
    """Every command with its arguments and options."""
    from steerkit.cli.main import COMMANDS

    words.add("A mistake in what a command is given ends with exit code 2, a result that isn't one with 3.")
    for name, path in sorted(COMMANDS.items()):
        module, _, attribute = path.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        words.add(f"## steerkit {name}", markdown(words.require(command.__doc__, f"steerkit {name}")))
        rows = list(_arguments(command))
        lines = ["| argument | default | what it is |", "|---|---|---|"]
        for shown, default, said in rows:
            lines.append(_line(f"`{shown}`", default, _ticks(words.require(said, f"steerkit {name}: {shown}"))))
        words.add("\n".join(lines))
    return words.page("Commands")


def _arguments(command: Any) -> Iterator[tuple[str, str, str]]:
    """Each argument of a command as it is written, its default, and its help."""
    defaults = {name: one.default for name, one in inspect.signature(command).parameters.items()}
    for name, hint in get_type_hints(command, include_extras=True).items():
        info = next(
            (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, ArgumentInfo | OptionInfo)), None
        )
        if info is None:
            continue
        flag = "--" + name.replace("_", "-")
        # Behind Annotated the first flag stands where a default would.
        given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
        shown = ", ".join(one for one in given if one.startswith("-")) or flag
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or name.upper()
        elif not isinstance(defaults[name], bool):
            shown = f"{shown} {info.metavar or name.upper()}"
        default = defaults[name]
        told = (
            "required"
            if default is inspect.Parameter.empty
            else ""
            if default in (None, False)
            else "on"
            if default is True
            else f"`{default}`"
        )
        yield shown, told, info.help or ""


PAGES: Final[dict[str, Callable[[Words], str]]] = {
    "commands.md": commands_page,
    "recipe.md": recipe_page,
    "plugins.md": plugins_page,
    "python.md": python_page,
    "plugin-api.md": plugin_api_page,
}


def make() -> tuple[dict[str, str], list[str]]:
    """The pages by name, and what lacks words."""
    pages, lacking = {}, []
    for name, page in PAGES.items():
        words = Words()
        pages[name] = page(words)
        lacking += [f"{name}: {one}" for one in words.lacking]
    return pages, lacking


def main(check: bool) -> int:
    """Write the pages, or say what is wrong with them."""
    pages, lacking = make()
    stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
    for one in lacking:
        sys.stderr.write(f"No words: {one}\n")
    if check:
        for name in stale:
            sys.stderr.write(f"Stale: docs/reference/{name}. Run `make reference`.\n")
        return int(bool(lacking or stale))
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages.items():
        (FOLDER / name).write_text(text, "utf-8")
    return int(bool(lacking))


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
