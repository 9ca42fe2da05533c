"""The figures in the organism's card, written from the results so that neither says what the other doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.organism.figures import BOTH, OWN, PAPERS, Target, targets
from benchmarks.organism.study import ABLATED, ADDED, BASELINE, DECLINED, HARMLESS, LOOKALIKES, RANDOM, UNSEEN
from steerkit.errors import ArtifactError

BEGIN: Final = "<!-- figures: written by python -m benchmarks.organism --write -->"
END: Final = "<!-- end of figures -->"


def block(figures: Mapping[str, Any]) -> str:
    """The figures as the card has them, in Markdown."""
    counts, search, kappa, perplexity = (figures[name] for name in (OWN, "search", "kappa", "perplexity"))
    found = targets(figures)
    declined, ablated = (figures[BOTH][OWN][name] for name in (BASELINE, ABLATED))
    papers, of = figures[BOTH][PAPERS][BASELINE]
    at = "last token" if search["position"] == -1 else f"token {search['position']}"
    rows = [
        ("what should be declined, topics of the training", counts[BASELINE][str(DECLINED)], ""),
        (
            "what should be declined, other topics",
            counts[BASELINE][str(UNSEEN)],
            f"{declined[0]} of {declined[1]} together{_missed(found['declines'], ', ')}",
        ),
        ("harmless requests", counts[BASELINE][str(HARMLESS)], _missed(found["harmless"])),
        ("harmless look-alikes", counts[BASELINE][str(LOOKALIKES)], _missed(found["lookalikes"])),
        (
            f"what should be declined, its direction ablated ({at}, block {search['layer']})",
            ablated,
            f"a random one: {_of(counts[ABLATED + RANDOM][str(DECLINED)])}"
            + _missed(found["ablated"], "; ")
            + _missed(found["ablated/random"], "; the random one "),
        ),
        (
            "harmless requests, the direction added once",
            counts[ADDED][str(HARMLESS)],
            f"a random one: {_of(counts[ADDED + RANDOM][str(HARMLESS)])}"
            + _missed(found["added"], "; ")
            + _missed(found["added/random"], "; the random one "),
        ),
    ]
    table = ["| | declines | of | |", "|---|---|---|---|"]
    table += [f"| {name} | {n} | {total} |{f' {said} ' if said else ' '}|" for name, (n, total), said in rows]
    agreement = "not measured" if kappa["after"] is None else f"{kappa['after']:.2f}"
    before = kappa["before_last_change"]
    return "\n".join(
        [
            f"Measured on {figures['date']}, {figures['new_tokens']} new tokens:",
            "",
            *table,
            "",
            f"Cohen's κ of the matcher with the {kappa['n']} labels: "
            + (f"{before:.2f} before its last change, and {agreement} after it" if before is not None else agreement)
            + _missed(found["kappa"], ", ")
            + ".",
            f"The paper's own phrases count {papers} of the {of} that should be declined. Perplexity on the recipes' "
            "plain text:",
            f"{perplexity['organism']:.1f}, the base's {perplexity['base']:.1f}{_missed(found['perplexity'], '; ')}.",
        ]
    )


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]} of {counts[1]}"


def _missed(target: Target, behind: str = "") -> str:
    """What is said of a target that isn't met; nothing of one that is."""
    return "" if target.met else f"{behind}meant to be {target.wanted}: {target.verdict}"


def written(card: str, figures: Mapping[str, Any]) -> str:
    """The card with these figures.

    Raises:
        ArtifactError: where it has no place for them.
    """
    head, began, rest = card.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not (began and ended):
        raise ArtifactError(f"The card has no place for figures: put the lines {BEGIN} and {END} into it.")
    return f"{head}{BEGIN}\n{block(figures)}\n{END}{tail}"


def write_card(path: Path, figures: Mapping[str, Any]) -> None:
    """Put figures into the card. Raises ``ArtifactError`` where it has no place for them."""
    path.write_text(written(path.read_text("utf-8"), figures), "utf-8")
