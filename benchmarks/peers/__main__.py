"""What extraction, added vectors and ablation cost in other libraries, each as a ratio to plain transformers.

    python -m benchmarks.peers [--only NAME ...] [--repeats 9] [--cache DIR]

Every library has an environment and a process of its own. Results are written after each, so that ``--only`` renews
single rows. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers import model
from benchmarks.peers.clocks import pin
from benchmarks.peers.environments import DEFAULT_CACHE, PEERS, InstallError, Peer, python_of
from benchmarks.peers.table import markdown, show
from benchmarks.showing import Far
from steerkit.bench.machine import machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RECORD, TABLE = RESULTS / "peers-cpu.json", RESULTS / "peers-cpu.md"
PLAIN_IMPORTS = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"
TIME_LIMIT = 1800
SECONDS, QUICK_SECONDS = 180.0, 45.0
"""That a library takes on two cores once its environment is there, at the sizes of the kept figures and at a look."""
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}


class ChildError(Exception):
    """A process that failed, with the last line that it said."""


def run(command: list[str], cwd: Path = ROOT) -> tuple[str, float, float]:
    """What a process printed, its CPU time and its wall time. Raises ``ChildError``."""
    before, wall = os.times(), time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"no end after {TIME_LIMIT} s") from error
    wall, after = time.perf_counter() - wall, os.times()
    if done.returncode:
        raise ChildError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:400])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout, cpu, wall


def harness(python: Path, what: str, driver: str, *more: str) -> list[str]:
    """Command line of the harness."""
    return [str(python), "-m", "benchmarks.peers.harness", what, driver, *more]


def starts(commands: dict[str, list[str]], cwd: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Median CPU and wall seconds of whole processes, run in turns after one round that fills caches."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            _, cpu, wall = run(command, cwd)
            if number:
                samples[name].append((cpu, wall))
    return {
        name: {
            "cpu_s": statistics.median(cpu for cpu, _ in pairs),
            "wall_s": statistics.median(wall for _, wall in pairs),
            "samples": pairs,
        }
        for name, pairs in samples.items()
    }


def attempt(found: dict[str, Any], key: str, work: Any) -> None:
    """Keep a result, or ``{"failed": reason}``: never a zero."""
    try:
        found[key] = work()
    except (ChildError, ValueError) as error:
        found[key] = {"failed": str(error)}


def measure(peer: Peer, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All of one library."""
    found: dict[str, Any] = {"title": peer.title, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    try:
        python = python_of(peer.environment, asked.cache, asked.torch_index)
    except InstallError as error:
        return {**found, "failed": f"did not install: {error}"}
    at = ["--model", str(folder)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        sizes = ["--repeats", str(asked.repeats), "--tokens", str(asked.tokens)]
        try:
            run(harness(python, "measure", peer.driver, *at, *sizes, "--out", str(out)))
        except ChildError as error:
            return {**found, "failed": f"did not run: {error}"}
        found.update(json.loads(out.read_text()))
        imports = found["environment"]["imports"]
        command = {"plain": [str(python), "-c", PLAIN_IMPORTS], "own": [str(python), "-c", imports]}
        attempt(found, "import", lambda: starts(command, Path(scratch), asked.starts))
    # transformers' own row has no variant that steers, and starts by generating unsteered.
    variants = dict.fromkeys(one["variant"] for one in found["records"] if one["case"] == "add_all")
    found["cold"], found["memory_mb"] = {}, {}
    for variant in variants:
        with_variant = [*at, "--variant", variant]
        pair = {
            "plain": harness(python, "cold", "plain", *at),
            "own": harness(python, "cold", peer.driver, *with_variant),
        }
        attempt(found["cold"], variant, lambda pair=pair: starts(pair, ROOT, asked.starts))
    for one in found["records"]:
        if one["case"] == "extract" and one["status"] == "ok":
            command_line = harness(python, "memory", peer.driver, *at, "--variant", one["variant"])
            attempt(found["memory_mb"], one["variant"], lambda line=command_line: float(run(line)[0].split()[-1]))
    return found


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [peer.driver for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--repeats", type=int, default=9, help="rounds of every timed study")
    parser.add_argument("--starts", type=int, default=5, help="rounds of imports and of first tokens")
    parser.add_argument("--tokens", type=int, default=48, help="tokens that a round decodes")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where environments are kept")
    parser.add_argument("--torch-index", help="package index for torch alone, say one of CPU builds")
    parser.add_argument("--quick", action="store_true", help="a look: 2 rounds, 1 start, 8 tokens, nothing kept")
    asked = parser.parse_args()
    if asked.quick:
        asked.repeats, asked.starts, asked.tokens = 2, 1, 8
    asked.cache = asked.cache.expanduser().resolve()
    pin()
    folder = model.write(asked.cache / "tiny-llama")
    sizes = {"repeats": asked.repeats, "starts": asked.starts, "tokens": asked.tokens, "threads": 1}
    peers: dict[str, Any] = json.loads(RECORD.read_text())["peers"] if RECORD.exists() else {}
    chosen, far = [peer for peer in PEERS if peer.driver in asked.only], Far("peers")
    far.expect(len(chosen) * (QUICK_SECONDS if asked.quick else SECONDS))
    far.say("for the first time the downloads of each library's environment come to that")
    for number, peer in enumerate(chosen):
        far(number, len(chosen))
        print(f"{peer.title} ...", flush=True)
        peers[peer.driver] = {**measure(peer, folder, asked), "sizes": sizes}
        if "failed" in peers[peer.driver]:
            print(f"  {peers[peer.driver]['failed']}")
        ordered = {name: peers[name] for name in names if name in peers}
        if asked.quick:
            continue
        RESULTS.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps({"model": model.config(), "seed": model.SEED, "peers": ordered}, indent=1) + "\n")
        TABLE.write_text(markdown(ordered))
    far(len(chosen), len(chosen))
    show({name: peers[name] for name in names if name in peers})
    if not asked.quick:
        print(RECORD)


if __name__ == "__main__":
    main()
