"""Workers that are actors of a Ray cluster. ``make test-ray`` runs these, in an environment that has Ray."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from steerkit.errors import ExecutorError, UnsupportedModelError
from steerkit.executors.base import Call, Unit
from steerkit.executors.chosen import named
from steerkit.executors.crew import Crew
from steerkit.run import run_recipe
from tests.executors import jobs
from tests.small_run import RECIPE, STABLE

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="Ray isn't installed here; make test-ray has it")
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture(scope="module")
def here(recipe: Path) -> Path:
    """The run that this process carries out."""
    return run_recipe(recipe, out=recipe.parent / "here", threads=1)


@pytest.fixture
def workers() -> Iterator[Crew]:
    with closing(named("ray", 1).open_workers("cpu", 1)) as crew:
        yield crew


def actors() -> list[int]:
    """The processes of our actors."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if command.startswith(b"ray::") and b"Actor" in command:
            found.append(int(folder.name))
    return found


class KillsOne:
    """An observer that kills an actor when the second condition begins, which the first one runs beside."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def step(self, what: str) -> None:
        if what.startswith("condition warmer") and not self.killed:
            self.killed = actors()[:1]
            os.kill(self.killed[0], signal.SIGKILL)

    def progress(self, done: int, of: int) -> None:
        pass


def test_actors_give_the_bytes_of_this_process_also_where_one_is_killed(
    recipe: Path, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    watcher = KillsOne()
    run = run_recipe(recipe, out=tmp_path / "runs", threads=1, executor="ray", workers=2, observer=watcher)
    for name in STABLE:
        assert (run / name).read_bytes() == (here / name).read_bytes(), name
    log = (run / "run.log").read_text()
    assert "executor ray: 2 workers, 1 thread each" in log
    assert watcher.killed and "while it carried out condition" in log
    assert not ray.is_initialized() and not actors()
    assert capfd.readouterr() == ("", "")  # Ray keeps its words to itself


def test_errors_warnings_and_dead_workers(workers: Crew, tmp_path: Path) -> None:
    for job in (jobs.refused, jobs.warned, jobs.process, jobs.dies):
        workers.hand(Call(job.__name__, job))
    workers.hand(Call("again", jobs.dies_once, (tmp_path / "mark",)))
    refused = workers.finished().error
    assert isinstance(refused, UnsupportedModelError) and (str(refused), refused.layer) == ("Not this one.", 3)
    with pytest.warns(UserWarning, match="Seen in a worker"):
        workers.finished()
    assert workers.finished().value != os.getpid()
    dead = workers.finished().error
    assert isinstance(dead, ExecutorError) and str(dead).startswith("dies: given up after 3 workers died of it")
    again = workers.finished()
    assert again.error is None and again.value != int((tmp_path / "mark").read_text())
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_an_input_is_stored_once_for_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    put, real = list[bytes](), ray.put
    monkeypatch.setattr(ray, "put", lambda value: put.append(value) or real(value))
    with closing(named("ray", 2).open_workers("cpu", 1)) as crew:
        units = [Unit((), {"shared": b"x" * 1000, str(number): b"own"}) for number in range(2)]
        for unit in units:
            crew.hand(unit)
        for _ in units:
            assert crew.finished().error is not None  # a unit without tasks
    assert put == [b"x" * 1000, b"own", b"own"]


def test_workers_wait_for_no_room_that_isnt_there() -> None:
    with pytest.raises(ExecutorError, match="has 2 CPUs, and 3 workers of 1 thread would take 3"):
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="critical", log_to_driver=False)
        try:
            named("ray", 3).open_workers("cpu", 1)
        finally:
            assert ray.is_initialized()  # it was somebody else's
            ray.shutdown()


def test_where_no_cluster_is_that_is_said() -> None:
    began = time.monotonic()
    for address, told in (
        ("auto", "Can't connect to a Ray cluster at auto: Could not find any running Ray instance"),
        ("127.0.0.1:9", r"No Ray cluster answers at 127.0.0.1:9 \(Connection refused\)"),
        ("ray://head:10001", "Start the run on a node of the cluster, with the address auto"),
        ("head", "is no address of a Ray cluster"),
    ):
        with pytest.raises(ExecutorError, match=told):
            named("ray", 1, address).open_workers("cpu", 1)
    assert time.monotonic() - began < 60


@pytest.fixture
def mixed() -> Iterator[str]:
    """A cluster of two nodes, the second of which computes with other instructions."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    # A folder of its own, with a short name (sockets lie in it): what runs here is found through the common one.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
    # The capability that torch finds on any processor of today, and the one that it can be held to.
    other = {**quiet, "ATEN_CPU_CAPABILITY": "default"}
    head = ["--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    nodes = []
    for arguments, environment in ((head, quiet), ([f"--address={address}", "--node-ip-address=127.0.0.1"], other)):
        nodes.append(
            subprocess.Popen(
                [RAY, "start", "--block", "--num-cpus=1", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )
        time.sleep(8)
    yield address
    for node in reversed(nodes):
        node.terminate()
        node.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_of_unlike_nodes_is_refused_by_name(mixed: str) -> None:
    import torch

    mine = torch.backends.cpu.get_cpu_capability()
    assert mine != "DEFAULT"
    with closing(named("ray", 2, mixed).open_workers("cpu", 1)) as crew:
        for number in range(2):
            crew.hand(Call(f"job {number}", jobs.process))
        told = r"^Worker \d on node \S+ \(\w{8}\) would give other bytes: CPU capability is DEFAULT"
        with pytest.raises(ExecutorError, match=rf"{told} \(here {mine}\)\. Make it the same there"):
            for _ in range(2):
                crew.finished()
