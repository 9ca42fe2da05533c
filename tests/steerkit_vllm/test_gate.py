"""What becomes of a request on its way to the engine: obeyed by content, salted by content, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit_vllm.asking import Asked, asked_of
from steerkit_vllm.conversing import fingerprint
from steerkit_vllm.errors import Refused, UnknownProgram
from steerkit_vllm.gate import SALT
from tests.steerkit_vllm.fronts import Front, program, request, watched


@pytest.fixture
def front() -> Front:
    return Front(8).load(program("warm"), program("cold", -1.0), program("last", 1.0, "last"), watched())


def salt(front: Front, ids: Any = (1, 2, 3), own: str | None = None, **extra: Any) -> str:
    one = request(ids, own, **extra)
    front.gate.seal(one)
    return one.cache_salt


def test_a_plain_request_is_left_as_it_is(front: Front) -> None:
    for own in (None, "mine"):
        one = request(salt=own, other=1)
        front.gate.seal(one)
        assert one.cache_salt == own and one.sampling_params.extra_args == {"other": 1}
        assert one.sampling_params.skip_reading_prefix_cache is None


def test_a_steered_request_names_content_and_keeps_what_else_it_had(front: Front) -> None:
    one = request(steer="warm", other=1)
    front.gate.seal(one)
    assert asked_of(one.sampling_params.extra_args) == Asked(program("x").digest)
    assert one.sampling_params.extra_args["other"] == 1 and "steer" not in one.sampling_params.extra_args
    by_digest = request(steer=f"sha256:{program('x').digest}")
    front.gate.seal(by_digest)
    assert by_digest.cache_salt == one.cache_salt


def test_salts_tell_contents_users_and_prompts_apart_where_they_matter(front: Front) -> None:
    different = {
        salt(front, steer="warm"), salt(front, steer="cold"), salt(front, own="a", steer="warm"),
        salt(front, own="b", steer="warm"), salt(front, steer="last"), salt(front, (1, 2, 4), steer="last"),
        salt(front, (1, 2), own="3", steer="last"),
    }  # fmt: skip
    assert len(different) == 7 and all(one.startswith(SALT) for one in different)
    # Every token gets the same of it, so that requests share what they have in common.
    assert salt(front, (9, 9), steer="warm") == salt(front, steer="warm")
    assert salt(front, steer="last") == salt(front, (1, 2, 3), steer="last")
    assert salt(front, own="\ud800", steer="warm") != salt(front, own="?", steer="warm")


def test_another_vector_under_one_name_has_another_salt() -> None:
    assert salt(Front().load(program("it", 1.0)), steer="it") != salt(Front().load(program("it", 2.0)), steer="it")
    assert salt(Front().load(program("it", 1.0)), steer="it") == salt(Front().load(program("you", 1.0)), steer="you")


def test_readings_are_asked_for_under_their_tag_and_from_the_first_token(front: Front) -> None:
    one = request(steer="watched", steer_readings="t")
    front.gate.seal(one)
    asked = asked_of(one.sampling_params.extra_args)
    assert asked is not None and asked.read == "t" and one.sampling_params.skip_reading_prefix_cache is True


def test_turns_are_handed_on_and_tell_caches_apart(front: Front) -> None:
    front.load(program("asked", 1.0, "user[-1]"))
    one = request((1, 2, 3, 4), steer="asked", steer_turns=[fingerprint((1, 2, 3, 4)), "system", 0, 1, "user", 2, 4])
    front.gate.seal(one)
    asked = asked_of(one.sampling_params.extra_args)
    assert asked is not None and asked.turns == (("system", 0, 1), ("user", 2, 4))
    assert "steer_turns" not in one.sampling_params.extra_args
    salts = {salt(front, (1, 2, 3, 4), steer="asked", steer_turns=["user", start, 4]) for start in (1, 2)}
    assert len(salts) == 2
    # What acts everywhere is the same wherever turns lie.
    assert salt(front, steer="warm", steer_turns=["user", 0, 1]) == salt(front, steer="warm")


def pooling(**extra: Any) -> Any:
    one = request()
    one.sampling_params, one.pooling_params = None, type("Params", (), {"extra_kwargs": extra})()
    return one


def embedded() -> Any:
    one = request(steer="warm")
    one.prompt_embeds = object()
    return one


def twice() -> Any:
    one = request(steer="watched", steer_readings="t")
    one.sampling_params.n = 2
    return one


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: request(steerkit={"program": "0" * 64}), "what the server tells its workers"),
        (lambda: request(salt="steerkit-1"), "may not begin with"),
        (lambda: request(steer_readings="t"), "needs a program"),
        (lambda: pooling(steer="warm"), "only requests that generate"),
        (lambda: embedded(), "text or token ids"),
        (lambda: twice(), "one completion each"),
        (lambda: request((), steer="last"), "doesn't fit this prompt"),
        (lambda: request(steer_turns=["user", 0, 1]), "needs a program"),
        (lambda: request(steer="warm", steer_turns=["0" * 64, "user", 0, 1]), "renders this conversation otherwise"),
        (lambda: request(steer="warm", steer_turns=["user", 0]), "renders this conversation otherwise|role, start"),
        (lambda: request(steer="warm", steer_turns=["nobody", 0, 1]), "role, start and stop"),
    ],
)
def test_what_would_go_unheard_or_stop_a_worker_is_refused(front: Front, asked: Any, why: str) -> None:
    one = asked()
    with pytest.raises(Refused, match=why):
        front.gate.seal(one)


def test_an_unknown_program_is_refused_with_the_nearest_name(front: Front) -> None:
    with pytest.raises(UnknownProgram, match="Did you mean 'warm'"):
        front.gate.seal(request(steer="wram"))
    with pytest.raises(Refused, match="all of it from the beginning"):
        front.gate.seal(request(steer="warm"), grows=True)
