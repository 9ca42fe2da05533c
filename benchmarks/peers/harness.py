"""Measure one library in its own environment: standard library and torch, no steerkit.

    python -m benchmarks.peers.harness measure DRIVER --model FOLDER --out FILE [--repeats 9]
    python -m benchmarks.peers.harness memory DRIVER --model FOLDER --variant NAME
    python -m benchmarks.peers.harness cold DRIVER --model FOLDER --variant NAME

Started by ``python -m benchmarks.peers``. Results are checked against ``definition.py`` first. What passes is timed
against plain transformers in the same process, interleaved round by round, in an order that turns.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import platform
import statistics
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.clocks import Case, Run, difference, interleave, pin, ratios

PLAIN, SAME = "plain", "plain, a second copy"
PREFILL_SHAPE, DECODE_PROMPT = (8, 256), 8
EXTRACTION_PROMPTS = 128
TOLERANCE = 1e-4


class NotOffered(Exception):
    """A driver raises it where its library has no way of doing the job."""


def load(name: str) -> Any:
    """A driver module."""
    return importlib.import_module(f"benchmarks.peers.drivers.{name}")


# What is run


class Steered:
    """A transformers model as its own user calls it. Drivers of libraries with other calls override both."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def logits(self, ids: Any) -> Any:
        """``[batch, pos]`` to ``[batch, pos, vocabulary]``, one pass over a prompt."""
        import torch

        with torch.no_grad():
            return self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    def generate(self, ids: Any, tokens: int) -> Any:
        """``[1, pos]`` to ``[1, pos + tokens]``, greedily, with a cache."""
        import torch

        return self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )


def plain(folder: str) -> tuple[Any, Any]:
    """Model and tokenizer, as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(folder)


class Material:
    """Inputs, the same in every process."""

    def __init__(self, tokens: int) -> None:
        import torch

        from benchmarks.peers import model

        chance = torch.Generator().manual_seed(7)
        self.tokens = tokens
        self.prompt = torch.randint(len(model.SPECIAL), model.VOCABULARY, (1, DECODE_PROMPT), generator=chance)
        self.batch = torch.randint(len(model.SPECIAL), model.VOCABULARY, PREFILL_SHAPE, generator=chance)
        self.vectors = torch.randn(model.LAYERS, model.WIDTH, generator=chance) * 0.3
        self.direction = torch.randn(model.WIDTH, generator=chance)
        self.positive = model.prompts(EXTRACTION_PROMPTS, 1)
        self.negative = model.prompts(EXTRACTION_PROMPTS, 2)


class Study:
    """One library: its driver in every variant, checked and timed."""

    def __init__(self, name: str, folder: str, repeats: int, tokens: int) -> None:
        self.module, self.repeats = load(name), repeats
        self.material = Material(tokens)
        self.model, self.tokenizer = plain(folder)
        self.copy, _ = plain(folder)
        self.drivers: dict[str, Any] = {}
        self.records: list[dict[str, Any]] = []
        self.samples: dict[str, Any] = {}
        for variant in self.module.VARIANTS:
            try:
                self.drivers[variant] = self.module.Driver(folder, variant)
            except Exception as error:
                self.note(variant, "load", "load", "failed", reason(error))

    def note(self, variant: str, case: str, phase: str, status: str, why: str = "", **more: Any) -> dict[str, Any]:
        """Keep one result."""
        record = {"variant": variant, "case": case, "phase": phase, "status": status, "reason": why, **more}
        self.records.append(record)
        return record

    def steering(self, variant: str, case: str) -> AbstractContextManager[Steered]:
        """The driver's context for a case."""
        driver = self.drivers[variant]
        if case == "add_all":
            return driver.add_all(self.material.vectors)  # type: ignore[no-any-return]
        return driver.ablate(self.material.direction)  # type: ignore[no-any-return]

    def wanted(self, variant: str, case: str, places: Sequence[str] | None = None) -> AbstractContextManager[None]:
        """The definition on the copy of the plain model."""
        from benchmarks.peers.definition import ablating, adding, literal

        if case == "add_all":
            return literal(self.copy, ["resid_post"], adding(self.material.vectors))
        return literal(self.copy, places or self.drivers[variant].ABLATE_AT, ablating(self.material.direction))

    # Checks: nothing is timed that isn't right.

    def check(self, variant: str, case: str, phase: str) -> dict[str, Any]:
        """One record: ``ok``, ``wrong``, ``not offered`` or ``failed``."""
        try:
            more = self._compared(variant, case, phase)
        except NotOffered as error:
            return self.note(variant, case, phase, "not offered", str(error))
        except Exception as error:
            return self.note(variant, case, phase, "failed", reason(error))
        wrong = more.pop("wrong")
        return self.note(variant, case, phase, "wrong" if wrong else "ok", wrong, **more)

    def _compared(self, variant: str, case: str, phase: str) -> dict[str, Any]:
        from benchmarks.peers.definition import EVERY_WRITER, count, mean_difference

        material, steered = self.material, Steered(self.copy)
        if case == "extract":
            rows = [self.tokenizer(text)["input_ids"] for text in [*material.positive, *material.negative]]
            wanted = mean_difference(self.copy, rows[:EXTRACTION_PROMPTS], rows[EXTRACTION_PROMPTS:])
            layers = getattr(self.module, "EXTRACT_LAYERS", range(len(wanted)))
            found = self.drivers[variant].extract(material.positive, material.negative)
            worst = difference(found, wanted[list(layers)])
            wrong = f"differs by {worst:.2g}" if worst > TOLERANCE else ""
            return {"max_difference": worst, "layers": len(layers), "wrong": wrong}
        more: dict[str, Any] = {"wrong": ""}
        if case == "ablate":
            more["places"] = count(self.drivers[variant].ABLATE_AT, len(self.copy.model.layers))
            with self.wanted(variant, case, EVERY_WRITER):
                everywhere = steered.logits(material.batch[:2, :16])
        with self.wanted(variant, case):
            if phase == "prefill":
                wanted = steered.logits(material.batch)
            else:
                wanted = steered.generate(material.prompt, material.tokens)
            if case == "ablate":
                # Block outputs alone leave what a block's own attention writes before its MLP reads it.
                here = steered.logits(material.batch[:2, :16])
                more["removes_everywhere"] = difference(here, everywhere) < TOLERANCE
        with self.steering(variant, case) as own:
            found = own.logits(material.batch) if phase == "prefill" else own.generate(material.prompt, material.tokens)
        if phase == "prefill":
            untouched, worst = steered.logits(material.batch), difference(found, wanted)
            more["max_difference"] = worst
            if worst > TOLERANCE:
                more["wrong"] = f"logits differ by {worst:.2g}"
        else:
            untouched = steered.generate(material.prompt, material.tokens)
            if found.tolist() != wanted.tolist():
                same = sum(a == b for a, b in zip(found[0].tolist(), wanted[0].tolist(), strict=False))
                more["wrong"] = f"{same - DECODE_PROMPT} of {material.tokens} tokens are those of the definition"
        if difference(untouched, wanted) < 100 * TOLERANCE:
            raise RuntimeError("the intervention changes nothing here, so this check could not fail")
        return more

    # Clocks

    def time(self, phase: str, right: list[tuple[str, str]]) -> None:
        """Time all cases that are right in one interleaved study and complete their records."""
        cases: dict[str, Case] = {PLAIN: self._plain(self.model, phase), SAME: self._plain(self.copy, phase)}
        for variant, case in right:
            cases[f"{variant}/{case}"] = self._case(variant, case, phase)
        samples = interleave(cases, self.repeats)
        self.samples[phase] = samples
        steps = self.material.tokens if phase == "decode" else 1
        self.note("", "same", phase, "ok")
        for record in self.records:
            if record["phase"] != phase or record["status"] != "ok":
                continue
            name = SAME if record["case"] == "same" else f"{record['variant']}/{record['case']}"
            for clock in ("cpu", "wall"):
                record[clock] = ratios(samples[name][clock], samples[PLAIN][clock])
                record[clock]["extra_us_per_step"] = 1e6 * record[clock].pop("extra_s") / steps
            record["attach_ms"] = 1e3 * statistics.median(samples[name]["attach"])

    def _plain(self, model: Any, phase: str) -> Case:
        material, steered = self.material, Steered(model)

        @contextmanager
        def case() -> Iterator[tuple[Run, Run]]:
            if phase == "extract":
                from benchmarks.peers.definition import mean_difference_by_hand as best

                def extract(n: int) -> object:
                    return best(self.tokenizer, model, material.positive[:n], material.negative[:n])

                yield lambda: extract(2), lambda: extract(EXTRACTION_PROMPTS)
            else:
                yield self._runs(steered, phase)

        return case

    def _case(self, variant: str, case: str, phase: str) -> Case:
        material, driver = self.material, self.drivers[variant]

        @contextmanager
        def entered() -> Iterator[tuple[Run, Run]]:
            if phase == "extract":
                yield (
                    lambda: driver.extract(material.positive[:2], material.negative[:2]),
                    lambda: driver.extract(material.positive, material.negative),
                )
            else:
                with self.steering(variant, case) as steered:
                    yield self._runs(steered, phase)

        return entered

    def _runs(self, steered: Steered, phase: str) -> tuple[Run, Run]:
        material = self.material
        if phase == "prefill":
            return lambda: steered.logits(material.batch[:2, :8]), lambda: steered.logits(material.batch)
        return lambda: steered.generate(material.prompt, 3), lambda: steered.generate(material.prompt, material.tokens)

    def run(self) -> dict[str, Any]:
        """Check everything, time what is right."""
        for phase, jobs in (("decode", ("add_all", "ablate")), ("prefill", ("add_all", "ablate")), ("extract", None)):
            right = []
            for variant in self.drivers:
                for case in jobs or ("extract",):
                    if case not in getattr(self.module, "ONLY", {}).get(variant, [case]):
                        continue
                    if self.check(variant, case, phase)["status"] == "ok":
                        right.append((variant, case))
            self.time(phase, right)
        return {"records": self.records, "samples": self.samples, "environment": environment(self.module)}


def environment(module: Any) -> dict[str, Any]:
    """Versions that took part."""
    names = dict.fromkeys([*module.PACKAGES, "torch", "transformers", "numpy"])
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "versions": found, "how": module.HOW, "imports": module.IMPORTS}


def reason(error: BaseException) -> str:
    """An error in one line, with the place in our driver or their code that it came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]} ({Path(last.filename).name}:{last.lineno})"


# Processes of their own


def memory(name: str, folder: str, variant: str) -> float:
    """How far extraction lifts the memory of this process above what it holds when the work begins, in MB."""
    material = Material(1)
    driver = load(name).Driver(folder, variant)
    driver.extract(material.positive[:2], material.negative[:2])  # what is imported or built once is not the work
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # or loading the model would hide the work

    def status(key: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    before = status("VmRSS")
    driver.extract(material.positive, material.negative)
    return status("VmHWM") - before


def cold(name: str, folder: str, variant: str) -> None:
    """Load and generate the first token, with a vector at every layer where the library can."""
    material, module = Material(1), load(name)
    if "add_all" not in module.HOW:
        Steered(plain(folder)[0]).generate(material.prompt, 1)
        return
    with module.Driver(folder, variant).add_all(material.vectors) as steered:
        steered.generate(material.prompt, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "memory", "cold"))
    parser.add_argument("driver")
    parser.add_argument("--model", required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=48)
    asked = parser.parse_args(arguments)
    pin()
    if asked.what == "memory":
        print(memory(asked.driver, asked.model, asked.variant))
    elif asked.what == "cold":
        cold(asked.driver, asked.model, asked.variant)
    else:
        found = Study(asked.driver, asked.model, asked.repeats, asked.tokens).run()
        (asked.out or Path("/dev/stdout")).write_text(json.dumps(found))
        print(f"{len(found['records'])} results", file=sys.stderr)


if __name__ == "__main__":
    # The drivers import this file under its own name; what they raise must be what it catches.
    from benchmarks.peers.harness import main as run

    run()
