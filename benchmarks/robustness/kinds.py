"""A fuzzer for each kind of input: whole ones, damaged by a seed, through the doors that read them."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import yaml

from benchmarks.robustness.attempts import Tally, attempt, call, command
from benchmarks.robustness.mutations import of_bytes, of_lines, of_value
from benchmarks.robustness.whole import RECIPE, data_files, directions_file, model_folder, model_gguf, run_directory
from steerkit.artifacts.directions import load_directions

Told: TypeAlias = Callable[[int, int], object]
"""Is told how many inputs are done, of how many."""


class Fuzzer(Protocol):
    """From a number of inputs, a seed and an empty folder to what became of them."""

    def __call__(self, inputs: int, seed: int, folder: Path, told: Told = ...) -> Tally:
        """Try so many."""
        ...


def _untold(done: int, of: int) -> None:
    pass


def _each(inputs: int, told: Told) -> Iterator[int]:
    """Numbers of inputs, each of which is told when the next one is asked for."""
    for number in range(inputs):
        yield number
        told(number + 1, inputs)


def recipes(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Recipes, damaged as bytes, as lines and as values: ``steerkit check``."""
    tally, draw = Tally("recipes", seed), random.Random(seed)
    whole = yaml.safe_load(RECIPE)
    for number in _each(inputs, told):
        place = _fresh(folder, number)
        how = draw.randrange(3)
        if how == 0:
            written = of_bytes(draw, RECIPE.encode())
        elif how == 1:
            written = of_lines(draw, RECIPE).encode("utf-8", "surrogatepass")
        else:
            written = json.dumps(of_value(draw, whole)).encode()
        (place / "recipe.yaml").write_bytes(written)
        attempt(tally, f"recipe {number}", partial(command, "check", place / "recipe.yaml"), place)
        _clear(place)
    return tally


def data(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Data files of every ending, damaged as bytes or as values: ``steerkit check`` of a recipe that names them."""
    tally, draw = Tally("data files", seed), random.Random(seed)
    whole = data_files(folder)
    for number in _each(inputs, told):
        place = _fresh(folder, number)
        name, content = draw.choice(list(whole.items()))
        written = of_bytes(draw, content)
        if name.endswith(".jsonl") and draw.random() < 0.5:
            rows = [json.loads(line) for line in content.decode().splitlines()]
            written = "\n".join(json.dumps(row) for row in of_value(draw, rows) or ()).encode()
        (place / name).write_bytes(written)
        field = "" if name.endswith(".txt") else ", field: text"
        (place / "recipe.yaml").write_text(
            f"name: d\nmodel: {{source: 'tiny-random:llama'}}\ndata: {{probe: {{file: {name}{field}}}}}\n"
            "evaluate: [{degeneration: {data: probe, max_new_tokens: 4}}]\n",
            "utf-8",
        )
        attempt(tally, f"{name} {number}", partial(command, "check", place / "recipe.yaml"), place)
        _clear(place)
    return tally


def directions(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Files of directions, damaged as bytes, in their header or in what it says: ``check``, and ``load_directions``."""
    tally, draw = Tally("directions files", seed), random.Random(seed)
    whole = directions_file(folder)
    for number in _each(inputs, told):
        place = _fresh(folder, number)
        file = place / "d.safetensors"
        file.write_bytes(of_bytes(draw, whole) if draw.random() < 0.4 else _other_header(draw, whole))
        (place / "recipe.yaml").write_text(
            "name: d\nmodel: {source: 'tiny-random:llama'}\ndata: {probe: {inline: [one, two]}}\n"
            "directions: {warmth: {file: d.safetensors}}\nconditions: {c: [{add: {direction: warmth}}]}\n"
            "evaluate: [{degeneration: {data: probe, max_new_tokens: 4}}]\n",
            "utf-8",
        )

        def both(place: Path = place, file: Path = file) -> tuple[int, str]:
            """What the check takes, the load takes as well."""
            checked, said = command("check", place / "recipe.yaml")
            loaded, why = call(lambda: load_directions(file))
            if loaded and not checked:
                return 1, f"check says valid, and the load refuses: {why}"
            return checked, said

        attempt(tally, f"directions {number}", both, place)
        _clear(place)
    return tally


def _other_header(draw: random.Random, whole: bytes) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    if draw.random() < 0.7:
        inner = of_value(draw, json.loads(header["__metadata__"]["steerkit.directions"]))
        header["__metadata__"]["steerkit.directions"] = json.dumps(inner)
    else:
        header = of_value(draw, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def models(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Model folders with a damaged file, and damaged GGUF files: ``steerkit check``, and a load with one completion."""
    from steerkit.session import load_model

    tally, draw = Tally("model folders and GGUF files", seed), random.Random(seed)
    whole, gguf = model_folder(folder), model_gguf(folder)
    names = sorted(path.name for path in whole.iterdir())
    for number in _each(inputs, told):
        place = _fresh(folder, number)
        source = place / "model"
        if draw.random() < 0.25:
            source = place / "model.gguf"
            source.write_bytes(of_bytes(draw, gguf))
            name = "model.gguf"
        else:
            shutil.copytree(whole, source)
            name = draw.choice(names)
            _damage(draw, source / name)
        (place / "recipe.yaml").write_text(
            f"name: m\nmodel: {{source: '{source}'}}\ndata: {{probe: {{inline: [one, two]}}}}\n"
            "evaluate: [{degeneration: {data: probe, max_new_tokens: 4}}]\n",
            "utf-8",
        )

        def both(place: Path = place, source: Path = source) -> tuple[int, str]:
            checked, said = command("check", place / "recipe.yaml")
            loaded, why = call(lambda: load_model(str(source)).generate(["one"], max_new_tokens=2))
            return (checked, said) if checked else (loaded, why)

        attempt(tally, f"{name} {number}", both, place)
        _clear(place)
    return tally


def _damage(draw: random.Random, file: Path) -> None:
    if file.suffix == ".json" and draw.random() < 0.6:
        file.write_text(json.dumps(of_value(draw, json.loads(file.read_text("utf-8")))), "utf-8")
    elif file.suffix == ".jinja" and draw.random() < 0.6:
        file.write_text(of_lines(draw, file.read_text("utf-8")), "utf-8", errors="surrogatepass")
    elif draw.random() < 0.1:
        file.unlink()
        if draw.random() < 0.5:
            file.symlink_to(file)
    else:
        file.write_bytes(of_bytes(draw, file.read_bytes()))


def runs(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Run directories with a damaged file: ``steerkit report``."""
    tally, draw = Tally("run directories", seed), random.Random(seed)
    whole = run_directory(folder)
    names = sorted(path.name for path in whole.iterdir() if path.is_file() and path.name != "report.html")
    for number in _each(inputs, told):
        place = _fresh(folder, number)
        run = place / "run"
        shutil.copytree(whole, run)
        name = "results.json" if draw.random() < 0.4 else draw.choice(names)
        file = run / name
        if file.suffix == ".json" and draw.random() < 0.6:
            file.write_text(json.dumps(of_value(draw, json.loads(file.read_text("utf-8")))), "utf-8")
        else:
            file.write_bytes(of_bytes(draw, file.read_bytes()))
        attempt(tally, f"{name} {number}", partial(command, "report", run), place, may_write=True)
        _clear(place)
    return tally


def stops(inputs: int, seed: int, folder: Path, told: Told = _untold) -> Tally:
    """Runs that are killed, interrupted, or on a disk that becomes full: each goes on and ends with the same bytes."""
    tally, recipe = Tally("stopped runs", seed), folder / "small.yaml"
    recipe.write_text(RECIPE, "utf-8")
    command = [sys.executable, "-m", "benchmarks.robustness.stopping", str(recipe), str(folder)]
    command += [str(inputs), str(seed)]
    root, environment = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            stop = json.loads(line)
            tally.note(f"{stop['how']} {tally.inputs}", 2, stop["fault"], stop["seconds"])
            told(tally.inputs, inputs)
    if process.returncode or tally.inputs < inputs:
        tally.faults.append(f"the process that stops runs ended with {process.returncode}")
    return tally


KINDS: Final[Mapping[str, Fuzzer]] = {
    "recipes": recipes,
    "data": data,
    "directions": directions,
    "models": models,
    "runs": runs,
    "stops": stops,
}


def _fresh(folder: Path, number: int) -> Path:
    place = folder / f"input-{number}"
    place.mkdir()
    return place


def _clear(place: Path) -> None:
    shutil.rmtree(place)
