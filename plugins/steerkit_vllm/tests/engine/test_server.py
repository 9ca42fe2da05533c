"""The server over HTTP, asked with the OpenAI client and with plain requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from engine.cases import MODEL, NEW, answers, conditions, in_turn, model, programs, requests
from engine.results import keep

import steerkit
from steerkit.api.program_bytes import program_to_bytes

ENOUGH = 600
"""Seconds in which the server starts on a slow machine."""
ARGUMENTS = (
    "--served-model-name", "smol", "--dtype", "float32", "--enforce-eager", "--max-model-len", "256",
    "--max-num-seqs", "16", "--block-size", "32", "--num-gpu-blocks-override", "64", "--max-programs", "6",
    "--kv-cache-memory-bytes", "268435456", "--program-uploads",
)  # fmt: skip


class Server:
    """A server in a process of its own.

    Args:
        programs: where their files are.
    """

    def __init__(self, programs: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        given = [part for name in conditions() for part in ("--program", f"{name}={programs / name}.safetensors")]
        command = [sys.executable, "-m", "steerkit_vllm.serve", MODEL, *ARGUMENTS, *given, "--program-folder"]
        self.log = (programs / "log.txt").open("w")
        self.process = subprocess.Popen(
            [*command, str(programs), "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=self.log, stderr=subprocess.STDOUT, env=os.environ | {"VLLM_LOGGING_LEVEL": "WARNING"},
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=300)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none")

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(ENOUGH):
            assert self.process.poll() is None, self.said()
            try:
                self.http.get("/health").raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(1)
        raise TimeoutError

    def stop(self) -> None:
        """Every process of it."""
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for one in family:
            if one.is_running():
                one.kill()

    def said(self) -> str:
        """The end of its log."""
        return Path(self.log.name).read_text()[-4000:]

    def resident(self) -> int:
        """Bytes of all its processes."""
        one = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (one, *one.children(recursive=True)))

    def post(self, path: str = "/v1/completions", **body: Any) -> httpx.Response:
        """One answer."""
        return self.http.post(path, json={"model": "smol", "max_tokens": 2, "temperature": 0} | body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    where = tmp_path_factory.mktemp("programs")
    for name, program in programs().items():
        (where / f"{name}.safetensors").write_bytes(program_to_bytes(program))
    started = Server(where)
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def test_a_batch_over_http_is_what_transformers_answers(server: Server) -> None:
    def ask(number: int) -> list[int]:
        one = requests()[number]
        told = {} if one.condition is None else {"steer": one.condition}
        answer = server.client.completions.create(
            model="smol", prompt=list(one.ids), max_tokens=NEW, temperature=0,
            extra_body={"return_token_ids": True, "ignore_eos": True} | told,
        )  # fmt: skip
        return list(answer.choices[0].model_extra["token_ids"])

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(len(requests()))))
    assert found == [list(one.tokens) for one in answers()]
    keep("over HTTP", {"requests": len(found), "equal token sequences": len(found)})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": "x", "steer": "absent"}, 404),
        ("/v1/completions", {"prompt": "x", "steer": "absent", "stream": True}, 404),
        ("/v1/completions", {"prompt": [[5], [7]], "steer": "both"}, 400),
        ("/v1/completions", {"prompt": [5], "steer": "both", "stream": True}, 400),
        ("/v1/completions", {"prompt": "x", "vllm_xargs": {"steerkit": "0"}}, 400),
        ("/v1/responses", {"input": "x", "steer": "warm"}, 400),
        ("/v1/chat/completions", {"messages": [], "vllm_xargs": {"steer": "absent"}}, 404),
    ],
)
def test_what_can_t_be_steered_is_a_4xx_and_the_server_lives(
    server: Server, path: str, body: dict[str, Any], status: int
) -> None:
    assert server.post(path, **body).status_code == status
    assert server.post(prompt="x").status_code == 200
    assert server.post(prompt="x y z", steer="both").status_code == 200


def test_readings_come_with_answers_and_streams(server: Server) -> None:
    ask = {"program": "warm", "readings": True}
    told = server.post(prompt=[5, 6, 7], steer=ask).json()["steer"]["readings"]["told"]
    # Three tokens of the prompt and the first new one have passed the model; the last new one never did.
    assert told["first"] == 0 and len(told["values"]) == 4 and None not in told["values"]
    stream = server.client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True, extra_body={"steer": ask}
    )
    chunks = list(stream)
    assert chunks[-1].model_extra["steer"]["readings"]["told"]["crossed"] in (True, False)
    assert not any(one.model_extra and "steer" in one.model_extra for one in chunks[:-1])
    again = server.post(prompt=[5, 6, 7], steer=ask).json()["steer"]["readings"]["told"]
    assert again["values"] == pytest.approx(told["values"], abs=1e-3)


def test_positions_at_turns_are_those_of_the_messages(server: Server) -> None:
    steer, program = in_turn()
    kind = {"content-type": "application/octet-stream"}
    assert server.http.post("/v1/steer/programs", content=program_to_bytes(program), headers=kind).status_code == 201
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour of the sea."}]
    ask = {"messages": messages, "max_tokens": NEW, "return_token_ids": True, "ignore_eos": True}
    chat = "/v1/chat/completions"
    found = server.post(chat, **ask, steer="in-turn").json()["choices"][0]["token_ids"]
    plain = server.post(chat, **ask).json()["choices"][0]["token_ids"]
    one = [steerkit.Message(**said) for said in messages]
    expected = list(model().completions([one], steer=[steer], max_new_tokens=NEW)[0].token_ids)
    assert found[: len(expected)] == expected != plain[: len(expected)]
    refused = server.post(chat, **ask, steer="in-turn", continue_final_message=True, add_generation_prompt=False)
    assert refused.status_code == 400 and "renders this conversation otherwise" in refused.text
    assert server.post("/v1/completions", prompt="x", steer="in-turn").status_code == 400
    assert server.http.delete("/v1/steer/programs/in-turn").status_code == 200


def test_programs_come_and_go_while_it_serves(server: Server) -> None:
    assert len(server.http.get("/v1/steer/programs").json()["data"]) == 5
    sent = program_to_bytes(programs()["warm"])
    kind = {"content-type": "application/octet-stream"}
    named = server.http.post("/v1/steer/programs?name=alias", content=sent, headers=kind)
    assert named.status_code == 201 and named.json()["digest"] == programs()["warm"].digest
    assert server.post(prompt="x", steer="alias").status_code == 200
    assert server.http.delete("/v1/steer/programs/fading").status_code == 200
    assert server.post(prompt="x", steer="fading").status_code == 404
    assert server.http.post("/v1/steer/programs", json={"file": "fading.safetensors"}).status_code == 201
    assert server.post(prompt="x", steer="fading").status_code == 200
    assert server.http.delete("/v1/steer/programs/alias").status_code == 200


def test_memory_stays_after_thousands_of_requests(server: Server) -> None:
    names: list[str | None] = [*conditions(), None]

    def ask(number: int) -> int:
        name = names[number % 6]
        told: Any = {"program": name, "readings": True} if name == "warm" else name
        prompt = [number % 40_000 + 100, *range(200, 240)]
        return server.post(prompt=prompt, **({} if name is None else {"steer": told})).status_code

    taken = []
    with ThreadPoolExecutor(16) as pool:
        for first, last in ((0, 200), (200, 2000)):
            assert set(pool.map(ask, range(first, last))) == {200}
            taken.append(server.resident())
    keep("resident memory", {"after 200 requests": taken[0], "after 2000 requests": taken[1]})
    assert taken[1] <= 1.02 * taken[0]
