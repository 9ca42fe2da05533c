"""What a client sends and gets: which requests are let through, and what is loaded while the server runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.api.program_bytes import program_to_bytes
from tests.steerkit_vllm.fronts import Front, program, saved, watched

CHAT = "/v1/chat/completions"


@pytest.fixture
def front() -> Front:
    return Front(4).load(program("warm"), watched(), program("spoken", 3.0, system_prompt="Be warm."))


def test_a_plain_request_passes_to_the_letter(front: Front) -> None:
    content = b'{"prompt":  "a \\u0041 steering wheel", "n": 1}'
    seen: list[Any] = []
    front.reply = lambda body: seen.append(body) or {"ok": 1}
    assert front.raw("POST", "/v1/responses", content) == (200, b'{"ok": 1}')
    assert seen == [json.loads(content)] and front.calls == ["load"] * 3


@pytest.mark.parametrize("told", [{"steer": "warm"}, {"vllm_xargs": {"steer": "warm"}}, {"steer": {"program": "warm"}}])
def test_a_program_goes_along_by_content(front: Front, told: dict[str, Any]) -> None:
    status, found = front.post(**told)
    assert status == 200
    assert found["body"] == {"prompt": "x", "vllm_xargs": {"steer": f"sha256:{program().digest}"}}


def test_other_arguments_stay_beside_it(front: Front) -> None:
    _, found = front.post(CHAT, messages=[], steer="warm", vllm_xargs={"a": 1}, n=3)
    assert found["body"]["vllm_xargs"] == {"a": 1, "steer": f"sha256:{program().digest}"} and found["body"]["n"] == 3


@pytest.mark.parametrize(
    ("path", "told", "status", "why"),
    [
        ("/v1/completions", {"steer": "wram"}, 404, "No program 'wram'"),
        ("/v1/completions", {"steer": 3}, 400, "a program's name, or"),
        ("/v1/completions", {"steer": {"program": "warm", "more": 1}}, 400, "a program's name, or"),
        ("/v1/completions", {"steer": "warm", "vllm_xargs": {"steer": "warm"}}, 400, "Leave one of them out"),
        ("/v1/completions", {"steer": "warm", "use_beam_search": True}, 400, "Beams"),
        ("/v1/completions", {"steer": "warm", "kv_transfer_params": {"a": 1}}, 400, "another engine"),
        ("/v1/completions", {"steer": {"program": "warm", "readings": True}}, 422, "has no monitor"),
        ("/v1/completions", {"steer": {"program": "watched", "readings": True}, "n": 2}, 400, "leave n at 1"),
        (
            "/v1/completions",
            {"steer": {"program": "watched", "readings": True}, "prompt": ["a", "b"]},
            400,
            "one prompt",
        ),
        ("/v1/completions", {"vllm_xargs": {"steer_readings": "t"}}, 400, "The server finds turns"),
        ("/v1/completions", {"steer": "spoken"}, 422, "behind a system prompt"),
        ("/v1/responses", {"steer": "warm"}, 400, "not at /v1/responses"),
        ("/v1/embeddings", {"vllm_xargs": {"steer": "warm"}}, 400, "not at /v1/embeddings"),
        ("/tokenize", {"steer": "warm"}, 400, "not at /tokenize"),
        ("/inference/v1/generate", {"sampling_params": {"extra_args": {"steer": "warm"}}}, 400, "sampling_params"),
        ("/invocations", {"steer": "warm"}, 400, "not at /invocations"),
    ],
)
def test_a_wish_that_would_go_unheard_is_refused(
    front: Front, path: str, told: dict[str, Any], status: int, why: str
) -> None:
    seen: list[Any] = []
    front.reply = seen.append
    found, answer = front.post(path, **told)
    assert found == status and why in answer["error"]["message"] and answer["error"]["code"] == status
    assert not seen


def test_a_field_in_disguise_is_found(front: Front) -> None:
    status, _ = front.raw("POST", "/v1/responses", b'{"st\\u0065er": "warm"}')
    assert status == 400
    for encoding in ("utf-16", "utf-16-le", "utf-32"):  # which whoever reads JSON tells from its first bytes
        status, _ = front.raw("POST", "/v1/completions", '{"prompt": "a", "steer": "wram"}'.encode(encoding))
        assert status == 404, encoding


def test_a_system_prompt_goes_before_the_conversation(front: Front) -> None:
    said = [{"role": "user", "content": "hi"}]
    own = {"role": "system", "content": "Be warm."}
    for messages in (said, [own, *said]):
        _, found = front.post(CHAT, messages=messages, steer="spoken")
        assert found["body"]["messages"] == [own, *said]
    status, found = front.post(CHAT, messages=[{"role": "system", "content": "Be cold."}, *said], steer="spoken")
    assert status == 400 and "Leave yours out" in found["error"]["message"]


READ = {
    "program": "watched",
    "digest": watched().digest,
    "readings": {
        "told": {
            "first": 1,
            "values": [1.0, None, 2.0],
            "crosses": [False, False, True],
            "threshold": 1.5,
            "side": "above",
            "peak": 2.0,
            "crossed": True,
        }
    },
}


def test_readings_come_with_the_answer(front: Front) -> None:
    front.reply = lambda body: {"id": "a", "tag": body["vllm_xargs"]["steer_readings"]}
    status, found = front.post(steer={"program": "watched", "readings": True})
    assert status == 200 and found["steer"] == READ and found["id"] == "a" and len(found["tag"]) == 32


def test_readings_come_as_the_last_chunk_of_a_stream_however_it_is_cut(front: Front) -> None:
    whole = 'data: {"id": "a", "model": "m", "choices": [1]}\n\n: alive\n\ndata: [DONE]\n\n'
    for size in (1, 7, 1000):
        front.reply = lambda body, size=size: [whole[at : at + size] for at in range(0, len(whole), size)]
        _, content = front.raw(
            "POST", CHAT, json.dumps({"stream": True, "steer": {"program": "watched", "readings": True}}).encode()
        )
        events = content.decode().split("\n\n")
        assert events[0] + "\n\n" == whole[: len(events[0]) + 2] and events[1] == ": alive"
        assert json.loads(events[2][6:]) == {"id": "a", "model": "m", "choices": [], "steer": READ}
        assert events[3:] == ["data: [DONE]", ""]


def test_what_a_stream_begins_with_refusing_has_a_status(front: Front) -> None:
    error = {"message": "no such token", "type": "BadRequestError", "param": None, "code": 400}
    front.reply = lambda body: ["data: " + json.dumps({"error": error}) + "\n\n", "data: [DONE]\n\n"]
    assert front.post(steer="warm", stream=True) == (400, {"error": error})


def test_programs_are_listed_loaded_and_freed(tmp_path: Path) -> None:
    front = Front(2, folder=tmp_path, uploads=True)
    assert front.ask("POST", "/v1/steer/programs", {"file": saved(tmp_path, program("warm"))})[0] == 201
    sent = program_to_bytes(watched())
    assert front.raw("POST", "/v1/steer/programs?name=mine", sent, "application/octet-stream")[0] == 201
    status, found = front.ask("GET", "/v1/steer/programs")
    assert status == 200 and [one["id"] for one in found["data"]] == ["mine", "warm"] and found["room"] == 0
    assert front.ask("GET", "/v1/steer/programs/mine")[1]["monitors"] == ["told"]
    assert front.ask("POST", "/v1/steer/programs", {"file": saved(tmp_path, program("third", 9.0))})[0] == 409
    assert front.ask("DELETE", "/v1/steer/programs/mine")[1]["deleted"] is True
    assert front.ask("DELETE", "/v1/steer/programs/mine")[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"file": "../outside.safetensors"}, 403),
        ({"file": "/etc/hostname"}, 403),
        ({"file": "absent.safetensors"}, 400),
        ({"file": "text.safetensors"}, 400),
        ({"name": "a"}, 400),
        ({"file": "wide.safetensors"}, 422),
        ([], 400),
    ],
)
def test_only_programs_of_the_folder_that_fit_are_loaded(tmp_path: Path, body: Any, status: int) -> None:
    from steerkit.api.program import ProgramModel

    (tmp_path / "text.safetensors").write_text("no program")
    saved(tmp_path, program("wide", model=ProgramModel("llama", 4, 9)))
    front = Front(folder=tmp_path)
    assert front.ask("POST", "/v1/steer/programs", body)[0] == status
    assert front.calls == []


def test_files_and_uploads_are_taken_where_the_server_says_so() -> None:
    front = Front()
    assert front.ask("POST", "/v1/steer/programs", {"file": "a"})[0] == 403
    assert front.raw("POST", "/v1/steer/programs", b"", "application/octet-stream")[0] == 403
    assert front.ask("PUT", "/v1/steer/programs")[0] == 405


def test_what_is_answered_is_not_freed_meanwhile(front: Front) -> None:
    seen: list[Any] = []

    def reply(body: Any) -> Any:
        try:
            front.programs.discard("warm")
        except Exception as error:
            seen.append(str(error))
        return {}

    front.reply = reply
    front.post(steer="warm")
    assert seen == ["1 request is running with 'warm'. Free it afterwards."]
    assert front.ask("DELETE", "/v1/steer/programs/warm")[0] == 200
