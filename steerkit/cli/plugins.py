"""``steerkit plugins``: what is installed, what can be set, and what is broken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from steerkit.catalog import Catalog, Entry


def plugins_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    kind: Annotated[str | None, typer.Option(help="Only one kind, as in estimator.")] = None,
) -> None:
    """List every plugin with its options; show the broken ones with their causes."""
    from steerkit.catalog import KINDS, Catalog
    from steerkit.errors import UnknownNameError, nearest

    known = [one.name for one in KINDS]
    if kind is not None and kind not in known:
        raise UnknownNameError(f"Unknown kind {kind!r}. {nearest(kind, known, 'kind')}")
    catalog = Catalog.discover(strict=False)
    # What is broken has no kind, and may be what the reader misses.
    entries = [entry for entry in catalog.entries if kind is None or entry.kind in (kind, "")]
    if as_json:
        plugins = [entry_to_json(entry) for entry in entries]
        typer.echo(json.dumps({"plugins": plugins, "faults": list(catalog.faults)}, indent=2, ensure_ascii=False))
    else:
        _print(catalog, entries)
    if catalog.faults:
        raise typer.Exit(2)


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """One plugin as JSON values."""
    from steerkit.api.hookspecs import ArchitectureSpec, FormatSpec

    found: dict[str, Any] = {
        "kind": entry.kind or None,
        "name": entry.name,
        "distribution": entry.origin.distribution,
        "version": entry.origin.version,
        "summary": entry.spec.summary if entry.spec else None,
        "status": entry.status,
        "cause": entry.cause or None,
        "entry_point": entry.origin.entry_point,
        "module": entry.origin.module,
        "options": [vars(option) for option in entry.options],
    }
    if isinstance(entry.spec, ArchitectureSpec):
        found["model_types"] = list(entry.spec.model_types)
        found["fallback"] = entry.spec.fallback
        found["refuses"] = dict(entry.spec.refuses)
        found["note"] = entry.spec.note or None
    if isinstance(entry.spec, FormatSpec):
        found["suffixes"] = list(entry.spec.suffixes)
    return found


def _print(catalog: Catalog, entries: Iterable[Entry]) -> None:
    from steerkit.catalog import KINDS
    from steerkit.columns import console as plain
    from steerkit.errors import counted

    console = plain()
    entries = list(entries)
    for kind in KINDS:
        listed = [entry for entry in entries if entry.kind == kind.name]
        if listed:
            _print_table(console, kind.plural, listed)
    stale = [entry for entry in entries if entry.status in ("outdated", "newer")]
    if stale:
        _print_table(console, "written for another contract", stale)
    failed = [entry for entry in entries if not entry.kind and entry not in stale]
    if failed:
        _print_table(console, "failed to load", failed)
    if not entries:
        console.print("No plugin is installed. The distribution steerkit-torch brings its own: is it installed?")
    console.print(
        f"{counted(sum(entry.status == 'ok' for entry in entries), 'plugin')}, {len(failed)} failed"
        f"{f', {len(stale)} of another contract' if stale else ''}. "
        "Leave one out with STEERKIT_DISABLE_PLUGINS=<distribution>:<entry point>, or either of the two."
    )


def _print_table(console: Console, title: str, entries: Iterable[Entry]) -> None:
    from rich.table import Table

    console.print(title, style="bold")
    table = Table(expand=True, pad_edge=False, box=None)
    table.add_column("name", style="cyan", no_wrap=True, min_width=20)
    table.add_column("what it is, and its options", ratio=1)
    for entry in entries:
        table.add_row(entry.name, _describe(entry))
    console.print(table)
    console.print()


def _describe(entry: Entry) -> Text:
    from rich.text import Text

    from steerkit.api.hookspecs import ArchitectureSpec, FormatSpec

    text = Text()
    if entry.spec:
        text.append(f"{entry.spec.summary}\n")
    origin = entry.origin
    text.append(f"{origin.distribution} {origin.version}, {origin.module}", style="dim")
    if isinstance(entry.spec, ArchitectureSpec):
        types = [*entry.spec.model_types, *(["any that no other adapter claims or refuses"] * entry.spec.fallback)]
        text.append(f"\nmodel types: {', '.join(types)}")
        if entry.spec.refuses:
            text.append(f"\nrefuses: {', '.join(entry.spec.refuses)}")
        if entry.spec.note:
            text.append(f"\nnote: {entry.spec.note}")
    if isinstance(entry.spec, FormatSpec):
        text.append(f"\nfiles: {', '.join(entry.spec.suffixes)}")
    for option in entry.options:
        default = "required" if option.required else f"= {json.dumps(option.default, ensure_ascii=False)}"
        default = "computed" if option.computed else default
        text.append("\n• ")
        text.append(option.name, style="green")
        text.append(f": {option.type} {default}")
        if option.description:
            text.append(f" — {option.description}", style="dim")
    if entry.cause:
        text.append(f"\n{entry.status}: {entry.cause}", style="red")
    return text
