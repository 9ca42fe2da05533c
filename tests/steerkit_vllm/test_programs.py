"""Names, contents and room."""

from __future__ import annotations

import asyncio

import pytest

from steerkit.api.program import ProgramModel
from steerkit_vllm.errors import Full, InUse, Refused, Unfit, UnknownProgram
from tests.steerkit_vllm.fronts import Front, program


def load(front: Front, name: str, value: float) -> None:
    asyncio.run(front.workers.load(name, program(name, value)))


def free(front: Front, name: str) -> None:
    asyncio.run(front.workers.free(name))


def test_there_is_room_for_so_many_contents_and_any_number_of_names() -> None:
    front = Front(2)
    load(front, "a", 1.0)
    load(front, "b", 2.0)
    load(front, "again", 2.0)
    assert front.calls == ["load", "load"] and front.programs.room == 0
    with pytest.raises(Full, match="2 programs are loaded"):
        load(front, "c", 3.0)
    free(front, "b")
    assert front.calls == ["load", "load"]
    free(front, "again")
    assert front.calls == ["load", "load", "free"]
    load(front, "c", 3.0)
    assert [one.name for one in front.programs] == ["a", "c"]


def test_a_name_is_one_content_until_it_is_freed() -> None:
    front = Front()
    load(front, "a", 1.0)
    load(front, "a", 1.0)
    with pytest.raises(InUse, match="Another program is loaded as 'a'"):
        load(front, "a", 2.0)
    free(front, "a")
    load(front, "a", 2.0)
    assert front.programs.named("a").digest == program("a", 2.0).digest


def test_what_requests_are_running_with_is_not_freed() -> None:
    front = Front().load(program("a"))
    with front.programs.use("a"), front.programs.use("a"), pytest.raises(InUse, match="2 requests are running"):
        free(front, "a")
    free(front, "a")
    with pytest.raises(UnknownProgram):
        front.programs.named("a")


def test_what_a_worker_is_running_is_tried_again_and_stays() -> None:
    front = Front().load(program("a"))
    front.refuse["free"] = "in use by 1 request"
    with pytest.raises(InUse, match="in use by 1 request"):
        free(front, "a")
    assert front.calls == ["load", *["free"] * 4, "load"]
    assert front.programs.named("a").digest == program("a").digest


def test_a_worker_without_a_place_for_it_leaves_nothing_behind() -> None:
    front = Front()
    front.refuse["load"] = "reads 9 directions"
    with pytest.raises(Unfit, match="reads 9 directions"):
        load(front, "a", 1.0)
    assert front.calls == ["load", "free"] and not list(front.programs) and front.programs.room == 3
    with pytest.raises(UnknownProgram, match="None is loaded"):
        front.programs.named("a")


def test_a_program_is_known_only_when_every_worker_has_it() -> None:
    front = Front()
    loaded, new = front.programs.admit("a", program("a"))
    assert new
    with pytest.raises(UnknownProgram):
        front.programs.named("a")
    with pytest.raises(InUse, match="being loaded"):
        front.programs.admit("a", program("a"))
    front.programs.ready(loaded)
    assert front.programs.named("a") is loaded


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (program(model=ProgramModel("llama", 4, 9)), "width 9, and this server's is a llama of 4 blocks of width 8"),
        (program(model=ProgramModel("qwen2", 4, 8)), "made for a qwen2"),
        (program(model=ProgramModel("llama", 5, 8)), "5 blocks"),
        (program(positions="from_token(x)"), "acts by places alone"),
        (program(positions="generated[-1]"), "count from an end"),
    ],
)
def test_what_the_model_has_no_place_for_never_reaches_a_worker(unfit: object, why: str) -> None:
    front = Front()
    with pytest.raises(Unfit, match=why):
        asyncio.run(front.workers.load("a", unfit))  # type: ignore[arg-type]
    assert front.calls == []


@pytest.mark.parametrize("name", ["", " a", "sha256:0", "a b", "a" * 129, 3, None])
def test_a_name_is_a_plain_word(name: object) -> None:
    with pytest.raises(Refused, match="goes by"):
        asyncio.run(Front().workers.load(name, program()))
