"""A judge behind an endpoint, which answers, stalls, refuses and talks rubbish; and its way through a run."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

import steerkit_evaluators.judge as plugin
from steerkit.engine.measuring.asking import answer
from steerkit.errors import ModelError, TryAgainError
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._judge import Judge

KEY = "sk-not-to-be-seen"


class Reply:
    """What the server does with a request: a status, headers, a body, and how long it waits before."""

    def __init__(
        self, text: Any = "refusal", status: int = 200, wait: float = 0, raw: bytes | None = None, **headers: str
    ):
        said = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        self.status, self.wait, self.body, self.headers = status, wait, said if raw is None else raw, headers


class Server:
    """On the loopback address; ``rule`` says what becomes of a question."""

    def __init__(self) -> None:
        self.rule: Callable[[str], Reply] = lambda question: Reply()
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.released = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, body, dict(self.headers)))
                reply = outer.rule(body["messages"][0]["content"])
                outer.released.wait(reply.wait)
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)
                except OSError:
                    pass  # who asked has gone

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def asked(self) -> list[str]:
        return [body["messages"][0]["content"] for _, body, _ in self.seen]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made = Server()
    yield made
    made.close()


def judge(server: Server, **options: Any) -> Judge:
    given = {"endpoint": server.url, "model": "small", "key_variable": "JUDGE_KEY", "timeout": 5.0, **options}
    return Judge(plugin.JudgeOptions(**given), FakeVocabulary(4))


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    server.rule = lambda question: Reply(question.upper())
    assert judge(server, max_tokens=3, request={"seed": 1}).ask(["one", "two", "three"]) == ["ONE", "TWO", "THREE"]
    path, body, headers = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert {**body, "messages": 0} == {"model": "small", "messages": 0, "temperature": 0, "max_tokens": 3, "seed": 1}
    assert body["messages"][0]["role"] == "user"
    judge(server, endpoint=f"{server.url}/chat/completions", request={"max_tokens": None, "top_p": 1}).ask(["x"])
    path, body, _ = server.seen[-1]
    assert path == "/v1/chat/completions" and "max_tokens" not in body and body["top_p"] == 1


def test_without_a_key_none_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    assert judge(server).ask(["x"]) == ["refusal"]
    assert "Authorization" not in server.seen[0][2]


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_told_without_showing_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ModelError, match="JUDGE_KEY holds signs") as caught:
        judge(server).ask(["x"])
    assert KEY not in str(caught.value) and not server.seen


@pytest.mark.parametrize("after", ["7", "date"])
def test_a_limit_of_requests_says_when_to_come_back_and_keeps_what_came(server: Server, after: str) -> None:
    header = formatdate(time.time() + 30, usegmt=True) if after == "date" else after
    server.rule = lambda question: Reply(status=429, Retry_After=header) if question == "b" else Reply("answer")
    with pytest.raises(TryAgainError, match="answered 429") as caught:
        judge(server).ask(["a", "b", "c"])
    assert caught.value.answers == ("answer", None, "answer")
    wait = caught.value.after
    assert wait is not None and (wait == 7 if after == "7" else 20 < wait <= 30)


@pytest.mark.parametrize("status", [500, 502, 503, 529, 408])
def test_a_fault_of_the_server_is_worth_another_try(server: Server, status: int) -> None:
    server.rule = lambda question: Reply(status=status, Retry_After="soon")
    with pytest.raises(TryAgainError, match=f"answered {status}") as caught:
        judge(server).ask(["a"])
    assert caught.value.after is None


def test_a_server_that_stalls_is_left_after_the_timeout(server: Server) -> None:
    server.rule = lambda question: Reply(wait=20)
    began = time.perf_counter()
    with pytest.raises(TryAgainError, match="in time"):
        judge(server, timeout=0.2).ask(["a"])
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_any_other_error_leaves_the_question_unanswered_and_says_why(server: Server, status: int) -> None:
    server.rule = lambda question: Reply(status=status, raw=KEY.encode(), Location=f"{server.url}/elsewhere")
    asked = judge(server)
    assert asked.ask(["a"]) == [None]
    assert f"answered {status}" in asked.trouble and KEY not in asked.trouble
    assert ("JUDGE_KEY" in asked.trouble) == (status in (401, 403))
    assert len(server.seen) == 1, "it follows nobody, who would get the key"


@pytest.mark.parametrize(
    "raw",
    [b"", b"rubbish", b"\xff\xfe", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'],
)
def test_rubbish_is_no_answer(server: Server, raw: bytes) -> None:
    server.rule = lambda question: Reply(raw=raw)
    asked = judge(server)
    assert asked.ask(["a"]) == [None] and "the endpoint answered" in asked.trouble


def test_where_nobody_listens_nobody_waits() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = Judge(plugin.JudgeOptions(endpoint=f"http://127.0.0.1:{port}", model="m"), FakeVocabulary(4))
    assert asked.ask(["a", "b"]) == [None, None] and "can't be reached" in asked.trouble


def test_the_runner_asks_again_only_for_what_is_open(server: Server) -> None:
    states = {"b": iter([Reply(status=429, Retry_After="2"), Reply(status=500), Reply("answer")])}
    server.rule = lambda question: next(states[question]) if question in states else Reply("refusal")
    waits: list[float] = []
    found = answer(judge(server), [("a",), ("b",), ("c",)], budget=9, sleep=waits.append)
    assert found.by_example == (("refusal",), ("answer",), ("refusal",)) and waits == [2.0, 2.0]
    assert sorted(server.asked) == ["a", "b", "b", "b", "c"]


# The way through a run.

RECIPE = """
name: judged
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  w: {inline: [sun one, sun two, sun three]}
  c: {inline: [snow one, snow two, snow three]}
  a: {inline: [alpha beta, gamma delta, epsilon zeta]}
directions:
  warmth: {estimator: mean_difference, positive: w, negative: c, site: blocks.1.resid_pre}
conditions: {warmer: [{add: {direction: warmth, coefficient: 0.0}}]}
control: {random_directions: 0}
evaluate:
  - judge: {data: a, endpoint: "URL", model: small, key_variable: JUDGE_KEY, max_new_tokens: 3, MORE}
  - refusal_rate: {data: a, max_new_tokens: 3}
report: {samples: {data: a, n: 2, max_new_tokens: 3}}
"""


def run(server: Server, tmp_path: Path, more: str = "max_calls: 50") -> Path:
    import steerkit_architectures.llama as llama
    import steerkit_estimators.mean_difference as estimator
    import steerkit_evaluators.refusal_rate as rate
    import steerkit_interventions.add as add
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe
    from steerkit.run import execute

    path = tmp_path / "judged.yaml"
    path.write_text(RECIPE.replace("URL", server.url).replace("MORE", more))
    plan = plan_recipe(path, (), Catalog.from_modules(plugin, rate, llama, estimator, add))
    return execute(plan, tmp_path / "runs", store=tmp_path / "store")


def test_a_run_is_judged_and_answers_are_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.report import load_run
    from steerkit.report.agreement import make_agreements

    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    said = {"alpha": "refusal", "gamma": "answer", "epsilon": "hm"}
    server.rule = lambda question: Reply(next(word for name, word in said.items() if name in question))
    folder = run(server, tmp_path)
    results = json.loads((folder / "results.json").read_text())
    records = {one["evaluator"]: one for one in results["records"] if one["condition"] == "warmer"}
    assert list(records) == ["judged", "unparsed", "refusal_rate"]
    assert (records["judged"]["value"], records["judged"]["n"]) == (0.5, 2)
    assert records["unparsed"]["value"] == pytest.approx(1 / 3)
    options = next(one for one in results["evaluators"] if one["name"] == "judged")["options"]
    assert options["prompt"] == plugin.PROMPT and len(options["prompt_sha256"]) == 64
    (pair,) = make_agreements(load_run(folder))["a"]
    assert pair.name == "judged and refusal_rate", "what couldn't be parsed is no verdict"
    assert [(row.condition, row.n) for row in pair.rows] == [("baseline", 2), ("warmer", 2)]
    assert len(server.seen) == 3
    run(server, tmp_path, "max_calls: 40, labels: {refusal: 0, answer: 1}")
    assert len(server.seen) == 3, "the same questions of the same judge"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_judge_that_is_away_leaves_no_rate(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.report import write_report

    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    server.rule = lambda question: Reply(status=401)
    folder = run(server, tmp_path)
    results = json.loads((folder / "results.json").read_text())
    judged = [one for one in results["records"] if one["evaluator"] in ("judged", "unparsed")]
    assert [(one["value"], one["n"]) for one in judged] == [(None, 0)] * 4
    assert any("set JUDGE_KEY to a key that it takes" in note for note in results["notes"])
    assert "judged on a: baseline, warmer were not judged." in write_report(folder).read_text()
    server.rule = lambda question: Reply("answer")
    again = json.loads((run(server, tmp_path) / "results.json").read_text())
    judged = [one["value"] for one in again["records"] if one["evaluator"] == "judged"]
    assert judged == [0.0, 0.0], "it is asked when it is back"


@pytest.mark.parametrize("of", ["calls", "tokens"])
def test_beyond_the_budget_nobody_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    # A question takes about 105 tokens here, and its answer 16: three questions without answers would fit.
    limit = "max_calls: 2" if of == "calls" else "token_budget: 340"
    results = json.loads((run(server, tmp_path, limit) / "results.json").read_text())
    assert len(server.seen) == 2 and results["records"][0]["value"] is None
    assert any(f"beyond the budget of {of}" in note for note in results["notes"])
