"""``steerkit inspect``: where a model's sites are, and whether its adapter tells the truth about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steerkit import columns
from steerkit.cli.paths import named
from steerkit.columns import print_table as _table
from steerkit.errors import counted, listed
from steerkit.types import PREFIX, RESID_POST, Site

if TYPE_CHECKING:
    from rich.text import Text

    from steerkit.api.architecture import Layout
    from steerkit.engine.prompts.roles import RoleToken
    from steerkit.engine.sites.checks import Check
    from steerkit.engine.sites.selftest import SelfTestReport
    from steerkit.errors import UnsupportedModelError
    from steerkit.session.model import LiveModel


_REFUSED: Final = {"passed": False, "checks": [], "sites": []}
"""What is so of every model that no adapter takes."""


def inspect_command(
    model: Annotated[str, typer.Argument(help="A hub id, folder, .gguf file, bundled alias or tiny-random:<type>.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="The adapter to use, where the checkpoint doesn't tell.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub repository.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    answer_prefix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Show the tokens of an answer that is made to begin so.")
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            parser=named,
            metavar="FILE",
            help="Show the tokens of this template, as a recipe names one, in place of the tokenizer's own.",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
    ] = False,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Agree to a bundled model's terms of use.")
    ] = False,
    declare: Annotated[
        bool, typer.Option("--declare", help="Print the layout as an adapter's module, a start for one of your own.")
    ] = False,
) -> None:
    """Show a model's sites and test them on the live model. Exits with 3 when the model is refused."""
    from steerkit.engine.prompts.roles import roles_shown
    from steerkit.engine.sites.tested import try_layouts
    from steerkit.errors import SteerkitError, UnsupportedModelError
    from steerkit.session import load_model
    from steerkit.session.models import adapter_named

    if declare and as_json:
        raise SteerkitError("--declare prints a module and --json prints JSON: leave one of them out.")
    template = None if chat_template is None else _read_template(chat_template)
    try:
        live = load_model(
            model,
            adapter=adapter,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            accept_terms=accept_terms,
            # No prompt is rendered, and a base model has no template.
            chat_template="none",
            self_test=False,
        )
    except UnsupportedModelError as error:
        if as_json:
            _print_json(_refusal_as_json(error))
        elif not declare:
            _print_refusal(error)
        raise
    tests = try_layouts(live.hf_model, live.layout, adapter_named(live.adapter_name), name=live.adapter_name)
    # Where nothing passes, what was declared first says most about the model.
    live.layout, report = tests[-1] if tests[-1][1].passed else tests[0]
    live.behaviours = report.behaves
    tokens = roles_shown(live.tokenizer, answer_prefix, template) if live.tokenizer is not None else ()
    if declare:
        typer.echo(_declared(live), nl=False)
    elif as_json:
        _print_json({**report.to_dict(), **({"template": [asdict(one) for one in tokens]} if tokens else {})})
    else:
        _print(live, report, tokens)
    report.raise_if_failed()


def _refusal_as_json(error: UnsupportedModelError) -> dict[str, Any]:
    where = {"cause": error.cause, "operation": error.operation, "module": error.module, "layer": error.layer}
    told = {"adapter": None, "model_type": error.model_type, **_REFUSED, "reason": str(error)}
    return {**told, **{name: value for name, value in where.items() if value not in ("", None)}}


def _print_refusal(error: UnsupportedModelError) -> None:
    """Where in a pass it was seen that a model can't be handled, if it was seen in one."""
    where = [
        ("cause", error.cause),
        ("operation", error.operation),
        ("module", error.module),
        ("block", "" if error.layer is None else str(error.layer)),
    ]
    if error.operation or error.module:
        _table(columns.console(), "refused at", ("", ""), [row for row in where if row[1]])


def _declared(live: LiveModel) -> str:
    """The layout as the module of an adapter, under a name that no installed one has."""
    from steerkit.catalog import installed
    from steerkit.cli.declared import adapter_module, adapter_name, config_sizes

    catalog = installed()
    config = live.hf_model.config
    # The module's own claim has to go before the one by which the model has its adapter now.
    claiming = [
        name
        for name in catalog.names("architecture")
        if live.facts.model_type in catalog.get("architecture", name).model_types
    ]
    name = adapter_name(live.facts.model_type, catalog.names("architecture"))
    return adapter_module(live.layout, live.facts.model_type, name, config_sizes(config.get_text_config()), claiming)


def _read_template(path: Path) -> str:
    """The text of a template's file."""
    from steerkit.errors import ModelError

    try:
        return path.expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ModelError(f"The template {path} can't be read: {why}. Name a Jinja file in UTF-8.") from error


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print(live: LiveModel, report: SelfTestReport, tokens: Sequence[RoleToken]) -> None:
    from steerkit.engine.prompts.roles import UNKNOWN
    from steerkit.engine.runtime.shareable import shareable

    console = columns.console()
    layout = live.layout
    console.print(
        f"{live.source}: model type {report.model_type}, adapter {report.adapter}", style="bold", markup=False
    )
    console.print(
        f"{counted(layout.n_layers, 'layer')}, d_model {layout.d_model}, {counted(len(report.sites), 'site')}, "
        f"{_writers(layout)}; {_logits(layout)}"
    )
    if _is_discovered(live.adapter_name):
        console.print(
            "Discovered: no adapter was written for this model; the layout was read off one pass, and is tested below."
        )
    for note in (*layout.notes, *report.behaves.notes):
        console.print(f"Note: {note}", markup=False)
    refused = shareable(live).refused or shareable(live, generating=True).refused
    if refused:
        console.print(
            f"Note: what prompts have in common at their beginning is read with each: {refused}", markup=False
        )
    console.print()
    _table(console, "sites", ("site", "width", "read and written at", "an update folds into"), site_rows(layout))
    if tokens:
        before = sum(one.role == "before" for one in tokens)
        behind = [(str(one.position), str(one.token_id), one.text) for one in tokens if one.role == "post_instruction"]
        title = (
            f"chat template: {counted(before, 'token')} before the instruction, {len(behind)} behind it "
            f"(post_instruction)"
        )
        if any(one.role == UNKNOWN for one in tokens):
            console.print("Note: which tokens of the chat template are the user's own text can't be told.\n")
        columns_of = ("position", "id", "token")
        _table(console, title, columns_of, behind)
        begun = [(str(one.position), str(one.token_id), one.text) for one in tokens if one.role == PREFIX]
        if begun:
            _table(console, f"how the answer begins ({PREFIX}), read as part of the prompt", columns_of, begun)
    head = ("check", "", "error", "allowed", "what it says")
    _table(console, "self-test", head, [_check_row(check) for check in report.checks])
    if report.behaviours:
        _table(console, "without steering", head, [_check_row(check) for check in report.behaviours])
    if report.passed:
        console.print("Passed: the model is what its adapter declares.", style="green")


def _is_discovered(adapter: str) -> bool:
    from steerkit.catalog import installed

    return installed().get("architecture", adapter).fallback


def _writers(layout: Layout) -> str:
    """How many write to the stream; where its blocks are no sums, that only their ends are sites, and why."""
    if layout.not_a_sum:
        return f"only the ends of blocks, since {layout.not_a_sum}"
    return f"{len(layout.writer_sites())} writers"


def _check_row(check: Check) -> tuple[str | Text, ...]:
    from rich.text import Text

    # Where no error was found, no place is worse than another.
    where = f" ({check.site})" if check.site and (check.max_abs_error or not check.passed) else ""
    return (
        check.name,
        "passed" if check.passed else Text("FAILED", style="red"),
        _number(check.max_abs_error),
        _number(check.tolerance),
        f"{check.meaning}{where}{'. ' if check.detail else ''}{check.detail}",
    )


_EXPERT: Final = re.compile(r"\.experts\.\d+(?=\.)")


def site_rows(layout: Layout) -> list[tuple[str, str, str, str]]:
    """The sites in forward order, one row for all layers that are alike.

    Returns:
        site, width, module and side, and where an update folds; layers as patterns have them: ``blocks.0-29.attn_out``.
    """
    from steerkit.api.showing import ranges

    alike: dict[tuple[str, str, str, str], list[int]] = {}
    for site in sorted(layout.sites(), key=_order(layout)):
        tap = layout.tap(site)
        factor = f", times {tap.factor:g}" if tap.factor != 1.0 else ""
        where = f"{tap.side} of {_pattern(layout, site, tap.module)}{factor}"
        row = (site.stream, str(layout.width(site)), where)
        alike.setdefault((*row, _folding(layout, site)), []).append(site.layer)
    rows = []
    for (stream, width, where, folding), layers in alike.items():
        span = ranges(layers)
        name = stream if layers == [-1] else f"blocks.{span}.{stream}"
        rows.append((name, width, where.replace("*", span), folding.replace("*", span)))
    return rows


def _order(layout: Layout) -> Callable[[Site], tuple[int, int]]:
    """Streams in the order in which a block meets them, and layers within a stream."""
    streams = list(dict.fromkeys(site.stream for site in layout.sites()))
    # A stream that only later blocks have is met before the block's end all the same.
    streams.append(streams.pop(streams.index(RESID_POST)))
    return lambda site: (streams.index(site.stream), site.layer)


def _pattern(layout: Layout, site: Site, path: str) -> str:
    """A path with ``*`` in place of the number of its block."""
    if site.layer < 0:
        return path
    block = layout.blocks[site.layer].module
    head, _, number = block.rpartition(".")
    if path == block or path.startswith(f"{block}."):
        return f"{head}.*{path[len(block) :]}" if number == str(site.layer) else path
    return path


def _folding(layout: Layout, site: Site) -> str:
    if site.layer < 0:
        return ", ".join(path for path in (layout.embed_weight, *layout.embed_beside) if path)
    for writer in layout.blocks[site.layer].writers:
        if writer.stream == site.stream:
            folded = writer.projections or (*writer.weighed, *writer.weighed_rows)
            # A list of experts, one module each, is one pattern.
            paths = dict.fromkeys(_EXPERT.sub(".experts.*", _pattern(layout, site, path)) for path in folded)
            if not paths:
                return f"nothing: {writer.not_foldable or 'not declared'}"
            return f"{', '.join(paths)}{' (what is linear)' if writer.is_weighed else ''}"
    return ""


def _logits(layout: Layout) -> str:
    parts = [f"logits from {listed(layout.behind)}"]
    parts += [f"times {layout.logit_scale:g}"] if layout.logit_scale != 1.0 else []
    parts += [f"soft cap {layout.softcap:g}"] if layout.softcap is not None else []
    return ", ".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
