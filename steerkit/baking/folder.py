"""From a run to a checkpoint, top to bottom. Whatever goes wrong, nothing is left of a checkpoint that isn't whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit import stages
from steerkit.artifacts.files import require_folder
from steerkit.artifacts.rundir import write_json, write_text
from steerkit.baking.asked import Asked, read_asked, require_model
from steerkit.baking.card import card_of
from steerkit.baking.check import Compared, compare, hooked_logits, plain_logits, prompts_of, require_fits
from steerkit.baking.engines import notes_of
from steerkit.baking.facts import facts_of_bake
from steerkit.baking.place import remove_abandoned, written
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, AttachError, ModelError, SteerkitError, counted
from steerkit.progress import SILENT, Observer

if TYPE_CHECKING:
    from steerkit.engine.baking.folding import Baking, Change
    from steerkit.engine.lowering.explain import Explanation
    from steerkit.session.model import LiveModel

FACTS = "steerkit.json"
CARD = "README.md"


@dataclass(frozen=True)
class Baked:
    """A checkpoint that was written, read back and compared with the hooked model.

    Args:
        folder: where it is.
        largest_difference: of next-token logits, over all prompts and tokens.
        tolerance: what the difference may be.
        largest_logit: of the hooked model, which the tolerance follows from.
        rule: how it follows, in words.
        prompts: on how many prompts they were compared.
        data: the splits of the recipe that these are of.
        changed: names of the parameters that the original has otherwise, or not at all.
        notes: what to know before another engine serves it.
    """

    folder: Path
    largest_difference: float
    tolerance: float
    largest_logit: float
    rule: str
    prompts: int
    data: tuple[str, ...]
    changed: tuple[str, ...]
    notes: tuple[str, ...] = ()


def bake(
    run: str | Path, condition: str, out: str | Path, *, observer: Observer = SILENT, catalog: Catalog | None = None
) -> Baked:
    """Write a condition of a finished run as an ordinary transformers checkpoint, its interventions in the weights.

    The checkpoint is read back, and its next-token logits are compared with those of the hooked model, before the
    folder appears. It holds the tokenizer, ``steerkit.json`` (where it comes from) and ``README.md`` (a model card).

    Args:
        run: the run directory.
        condition: as the run's results name it; a control (``warmer/random-1``) is one too.
        out: the folder to be written; it doesn't exist yet, or is empty.
        observer: told what is done; nobody by default.
        catalog: plugins; discovered if not given.

    Raises:
        AttachError: where weights can't hold the condition exactly, with the reason; or where the checkpoint isn't the
            hooked model.
        ArtifactError: where the run can't be read, has changed since, or the folder can't be written.
        UnknownNameError: where the run has no such condition.
    """
    if not isinstance(condition, str) or not isinstance(run, (str, Path)) or not isinstance(out, (str, Path)):
        raise SteerkitError("bake takes a run directory, the name of one of its conditions, and a folder to write.")
    if not str(out).strip():
        raise SteerkitError("An empty text names no folder, and would be the one that you are in. Name one as out.")
    from steerkit.engine.baking.writing import bytes_of, require_room, write_checkpoint

    out = Path(out).expanduser()
    _require_free(out)
    require_folder(out.absolute(), "a checkpoint", "Name another folder with --out.")
    remove_abandoned(out)
    asked = read_asked(run, condition, catalog)
    observer.step(f"loading {asked.plan.loading.source}")
    live = stages.load(asked.plan)
    require_model(asked, live)
    baking, told = _foldable(asked, live)
    require_room(out.absolute(), bytes_of(live.model))
    examples, data = prompts_of(asked.plan, live)
    rendered = live.rendered(examples)
    observer.step(f"reading {counted(len(examples), 'prompt')} with {condition} as hooks")
    hooked = hooked_logits(live, asked.condition, rendered)
    with written(out) as folder:
        observer.step("writing the checkpoint")
        original = stages.facts_of(live)
        change = baking.put()
        write_checkpoint(live.model, live.tokenizer, folder)
        del baking, live  # two of a large model may not fit
        observer.step("reading the checkpoint back")
        again = _read_back(asked, folder)
        found = plain_logits(again, examples, rendered)
        compared = compare(hooked, found, str(original["dtype"]), len(examples), data)
        require_fits(compared, condition)
        _require_read(again, folder, condition)
        facts = facts_of_bake(asked, change, compared, original, again.weights_hash, examples)
        write_json(folder / FACTS, facts)
        notes = notes_of(str(original["model_type"]), change)
        write_text(folder / CARD, card_of(asked, change, told, compared, original, notes))
    return _baked(out, compared, change, notes)


def _baked(out: Path, compared: Compared, change: Change, notes: tuple[str, ...]) -> Baked:
    return Baked(
        out,
        compared.largest_difference,
        compared.tolerance,
        compared.largest_logit,
        compared.rule,
        compared.prompts,
        compared.data,
        (*change.parameters, *change.zeros),
        notes,
    )


def _require_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        what = "isn't empty" if out.is_dir() else "is a file"
        raise ArtifactError(f"{out} {what}. Name a folder that doesn't exist yet, or an empty one, with --out.")


def _foldable(asked: Asked, live: LiveModel) -> tuple[Baking, Explanation]:
    """The condition as parameters and in words, or an error with the reasons that ``explain`` gives."""
    from steerkit.engine.baking.folding import Baking
    from steerkit.engine.lowering.explain import explain
    from steerkit.engine.runtime.blocks import Group

    name = asked.condition.name
    try:
        program = live.steering.explained(Group(asked.condition.placements, "fold"))
        if program.empty:
            raise AttachError("it changes nothing, so its checkpoint is the original")
        told = explain(program, live.model, live.layout)
        kept = [row for row in told.rows if row.became not in ("folded", "dropped", "hook, reads")]
        if kept:
            lines = [
                f"\n  {row.intervention} at {row.sites}, tokens {row.when}{f' if {row.gate}' if row.gate else ''}: "
                f"{row.why or 'it stays a hook'}"
                for row in kept
            ]
            raise AttachError(f"not all of it folds exactly.{''.join(lines)}")
        return Baking.of(live.model, program.folds), told
    except SteerkitError as error:
        raise type(error)(f"Condition {name} can't be baked: {error}\nNothing was written.") from None


def _require_read(again: LiveModel, folder: Path, name: str) -> None:
    """Raise ``AttachError`` where the checkpoint holds what isn't read back, however little it does to the logits."""
    from steerkit.engine.baking.writing import unread

    if names := unread(again.model, folder):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise AttachError(
            f"The checkpoint with {name} folded in holds {names[0]}{more}, and nothing in its config declares that: "
            "whoever reads it drops it. The checkpoint was removed."
        )


def _read_back(asked: Asked, folder: Path) -> LiveModel:
    loading = replace(asked.plan.loading, source=str(folder), revision=None)
    try:
        return stages.load(replace(asked.plan, loading=loading))
    except SteerkitError as error:
        raise ModelError(f"The checkpoint can't be read back, so it was removed: {error}") from None
