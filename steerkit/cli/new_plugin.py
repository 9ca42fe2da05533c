"""``steerkit new-plugin``: a package of one's own to begin from, with tests that pass."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from steerkit.cli.placing import chosen_folder, place
from steerkit.errors import PluginError, UnknownNameError, nearest

if TYPE_CHECKING:
    from steerkit.api.hookspecs import Kind


@dataclass(frozen=True)
class Original:
    """What the template calls its plugin of a kind.

    Args:
        name: of the plugin and of its modules.
        stem: what the names of its classes begin with.
        apart: whether ``name`` is also something else's in its texts: the model type and the modules of a model.
    """

    name: str
    stem: str
    apart: bool = False


ORIGINALS: Final[Mapping[str, Original]] = {
    "architecture": Original("gpt_neox", "GPTNeoX", apart=True),
    "estimator": Original("median_difference", "MedianDifference"),
    "intervention": Original("cap", "Cap"),
    "evaluator": Original("next_token_entropy", "NextTokenEntropy"),
    "format": Original("vector_list", "VectorList"),
}
_PACKAGE: Final = "steerkit_template"
_DISTRIBUTION: Final = "steerkit-template-plugin"
_README: Final = """\
# {distribution}

The {kind} `{name}` for steerkit. It begins as a copy of the template's `{original}`; its tests pass as they are.

```
{listed}
```

1. `pip install -e '.[test]'` and `pytest`. The suite builds small random models and downloads nothing.
2. Write what it is to do into `_{name}.py`, what can be set into `{name}.py`, and what must hold into the tests. A
   check of the suite that fails says what is wrong and where.
3. `steerkit plugins --kind {kind}` shows it with its options, or why it is broken.

It may import `steerkit.api`, `steerkit.errors` and `steerkit.types`, tests `steerkit.testing` as well: that is the
contract. `STEERKIT_CONTRACT` says the version of it that the plugin was written for.
"""


def new_plugin_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As recipes will write it, such as huber_difference.")],
    kind: Annotated[
        str, typer.Option(help="architecture, estimator, intervention, evaluator or format.", metavar="KIND")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where to; steerkit-NAME in this folder if not given.")
    ] = None,
) -> None:
    """Write a package with a plugin of one kind, renamed from the template, with tests that pass."""
    from steerkit.catalog import KINDS, Catalog

    chosen = next((one for one in KINDS if one.name == kind), None)
    if chosen is None:
        raise UnknownNameError(f"Unknown kind {kind!r}. {nearest(kind, [one.name for one in KINDS], 'kind')}")
    _check_name(name)
    entry = next((one for one in Catalog.discover(strict=False).entries if (one.kind, one.name) == (kind, name)), None)
    if entry is not None:
        raise PluginError(f"The {kind} {name!r} is there already, of {entry.origin}. Choose another name.")
    folder = chosen_folder(out, f"steerkit-{name.replace('_', '-')}")
    place(folder, plugin_files(chosen, name))
    typer.echo(
        f"Wrote {folder}: the {kind} {name}, begun as a copy of {ORIGINALS[kind].name}. Its README says how to go on:"
    )
    typer.echo(f"  pip install -e '{folder}[test]' && pytest {folder}")


def _check_name(name: str) -> None:
    """A name that recipes, modules and packages can have."""
    import importlib.util

    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise PluginError(
            f"{name!r} is no name for a plugin: take lower-case words, parted by underscores, such as huber_difference."
        )
    package = f"steerkit_{name}"
    if importlib.util.find_spec(package) is not None:
        raise PluginError(f"A package {package} is installed already. Choose another name.")


def plugin_files(kind: Kind, name: str) -> dict[str, str]:
    """The files of a package with one plugin, by path.

    Raises:
        PluginError: where the template isn't here.
    """
    from steerkit.catalog import template_folder

    source = template_folder()
    if source is None:
        raise PluginError("The template isn't here. Install steerkit from its wheel, or run this in a checkout.")
    original, package = ORIGINALS[kind.name], f"steerkit_{name}"
    distribution = f"steerkit-{name.replace('_', '-')}"
    project = (source / "pyproject.toml").read_text("utf-8")
    told = {"name": name, "kind": kind.name, "original": original.name, "suite": kind.suite}
    listed = {
        "pyproject.toml": 'the entry point in the group "steerkit"',
        f"src/{package}/{name}.py": "what steerkit lists: the spec and its options; imports no torch",
        f"src/{package}/_{name}.py": "the implementation, imported when a recipe needs it",
        f"tests/test_{name}.py": f"the suite {kind.suite} of steerkit.testing, and what is particular to it",
    }
    wide = max(map(len, listed))
    told["listed"] = "\n".join(f"{path:{wide}}   {what}" for path, what in listed.items())
    files = {
        "README.md": _README.format(distribution=distribution, **told),
        "pyproject.toml": _project(project, kind, name).replace(_DISTRIBUTION, distribution),
        f"src/{_PACKAGE}/__init__.py": f'"""The {kind.name} ``{name}`` for steerkit."""\n',
        f"src/{_PACKAGE}/py.typed": "",
    }
    for path in (f"src/{_PACKAGE}/{{}}.py", f"src/{_PACKAGE}/_{{}}.py", "tests/test_{}.py"):
        text = (source / path.format(original.name)).read_text("utf-8")
        files[path.format(name)] = _renamed(text, original, name)
    return {path.replace(_PACKAGE, package): text.replace(_PACKAGE, package) for path, text in files.items()}


def _renamed(text: str, original: Original, name: str) -> str:
    """A module of the template with the plugin's name in place of the original's."""
    stem = "".join(word.capitalize() for word in name.split("_"))
    text = re.sub(rf"(?<![A-Za-z]){original.stem}|(?<=Test){original.stem}", stem, text)
    if original.apart:
        # The model's own type and modules keep their names: only what speaks of the plugin gets the new one.
        places = rf'(?<={_PACKAGE}\.)(_?){{0}}\b|(?<=``)(_?){{0}}(?=``)|(?<=\bname=")(){{0}}(?=")'
        return re.sub(
            places.format(original.name), lambda found: f"{''.join(filter(None, found.groups()))}{name}", text
        )
    return re.sub(rf"(?<![A-Za-z0-9])(_?){original.name}\b", rf"\g<1>{name}", text)


def _project(text: str, kind: Kind, name: str) -> str:
    """The template's ``pyproject.toml`` with the entry point of one plugin."""
    lines = []
    for line in text.splitlines():
        if line.startswith("description = "):
            line = f'description = "The steerkit {kind.name} {name}."'
        if line.startswith(f'"{kind.plural}.'):
            line = f'"{kind.plural}.{name}" = "{_PACKAGE}.{name}"'
        elif re.match(r'"\w+\.\w+" = ', line):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"
