"""A format that isn't ours and holds whole conditions: JSON that anybody can read. Plugin and implementation in one."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.api.condition import SavedCondition
from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format, Given, Written
from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl
from steerkit.errors import ArtifactError, SteerkitError

STEERKIT_CONTRACT = 2
START = b'{"whole": '


class WholeJson(Format[NoOptions]):
    """``{"whole": {"directions": {name: [positions, {site: vectors}]}, "condition": {...}}}``."""

    def sniff(self, path: Path) -> bool:
        try:
            return path.read_bytes().startswith(START)
        except OSError:
            return False

    def read(self, path: Path, given: Given = Given()) -> Contents:
        import torch

        try:
            held = json.loads(path.read_bytes())["whole"]
            directions = {
                name: Direction({site: torch.tensor(rows) for site, rows in by_site.items()}, None, positions, name)
                for name, (positions, by_site) in held["directions"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, SteerkitError) as error:
            raise ArtifactError(f"{path} can't be read ({error}). Write it again.") from None
        for name, direction in directions.items():
            if (fault := given.fault(name, direction.sites, direction.positions)) is not None:
                raise ArtifactError(f"{path}: {fault}")
        condition = SavedCondition.from_json(held["condition"], str(path)) if "condition" in held else None
        return Contents(directions, condition=condition)

    def write(self, contents: Contents) -> Written:
        held = {
            "directions": {
                name: [str(one.positions), {str(site): vectors.tolist() for site, vectors in one.items()}]
                for name, one in contents.directions.items()
            }
        }
        condition = {} if contents.condition is None else {"condition": contents.condition.to_json()}
        try:
            text = json.dumps({"whole": {**held, **condition}}, allow_nan=False)
        except ValueError as error:
            raise ArtifactError(f"Only finite numbers can be written ({error}).") from None
        return Written(text.encode(), ("Means and provenance aren't kept.",))


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    return [FormatSpec("whole_json", "All in JSON.", f"{__name__}:WholeJson", suffixes=(".json",))]
