"""What becomes of a request on its way to the engine: obeyed by content, salted by content, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from steerkit_vllm.asking import Asked, asked_of
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


def test_another_vector_under_one_name_has_another_salt() -> None:
    assert salt(Front().load(program("it", 1.0)), steer="it") != salt(Front().load(program("it", 2.0)), steer="it")
    assert salt(Front().load(program("it", 1.0)), steer="it") == salt(Front().load(program("you", 1.0)), steer="you")


def test_readings_are_asked_for_under_their_tag_and_from_the_first_token(front: Front) -> None:
    one = request(steer="watched", steer_readings="t")
    front.gate.seal(one)
    asked = asked_of(one.sampling_params.extra_args)
    assert asked is not None and asked.read == "t" and one.sampling_params.skip_reading_prefix_cache is True


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
