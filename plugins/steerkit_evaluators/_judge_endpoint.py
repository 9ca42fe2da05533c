"""A judge behind an OpenAI-compatible endpoint, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from steerkit.errors import ModelError, TryAgainError
from steerkit_evaluators.judge import JudgeOptions

LARGEST: Final = 1 << 22
"""Bytes of an answer that are read."""

_LATER: Final = (408, 409, 425, 429)


@dataclass(frozen=True)
class _Answer:
    """What came of one request: a text, or why there is none, and whether to come back, and when."""

    text: str | None = None
    trouble: str = ""
    later: bool = False
    after: float | None = None


class _Stay(HTTPRedirectHandler):
    """Goes nowhere else: a redirect would carry the key to whom it names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """Asks ``<endpoint>/chat/completions``, a few questions at one time.

    Args:
        options: the judge's. The key is read from the environment with each batch and kept nowhere.
    """

    def __init__(self, options: JudgeOptions) -> None:
        address = str(options.endpoint)
        self.url = address if address.endswith("/chat/completions") else f"{address}/chat/completions"
        self.options, self.trouble = options, ""
        self._opener = build_opener(_Stay)

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        """One answer each, or None.

        Raises:
            TryAgainError: where a question may be answered later, with the answers of the others.
            ModelError: for a key that can't be sent.
        """
        key = self._key()
        with ThreadPoolExecutor(self.options.parallel) as pool:
            found = list(pool.map(lambda question: self._one(question, key), questions))
        self.trouble = next((one.trouble for one in found if one.trouble), "")
        later = [one for one in found if one.later]
        if later:
            waits = [one.after for one in later if one.after is not None]
            raise TryAgainError(later[0].trouble, max(waits, default=None), [one.text for one in found])
        return [one.text for one in found]

    def _key(self) -> str:
        name = self.options.key_variable
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ModelError(f"{name} holds signs that no key has. Set it to the key of {self.options.endpoint}.")
        return key

    def _one(self, question: str, key: str) -> _Answer:
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": self.options.max_tokens, **self.options.request}
        body = {"model": self.options.model, "messages": [{"role": "user", "content": question}]}
        body |= {name: value for name, value in fields.items() if value is not None}
        headers = {"Content-Type": "application/json", "User-Agent": "steerkit"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        request = Request(self.url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.options.timeout) as response:
                return _read(response.read(LARGEST))
        except HTTPError as error:
            with error:
                return self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            return _unheard(error.reason if isinstance(error, URLError) else error)

    def _refused(self, error: HTTPError) -> _Answer:
        """Of what the server says only the number is passed on: its words may hold the key."""
        trouble = f"the endpoint answered {error.code}"
        if error.code in (401, 403):
            trouble += f": set {self.options.key_variable} to a key that it takes"
        later = error.code >= 500 or error.code in _LATER
        return _Answer(None, trouble, later, _wait(error.headers) if later else None)


def _read(raw: bytes) -> _Answer:
    try:
        text = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _Answer(trouble="the endpoint answered something else than a chat completion")
    if not isinstance(text, str):
        return _Answer(trouble="the endpoint answered without a text")
    return _Answer(text)


def _unheard(reason: object) -> _Answer:
    """No answer at all. Who doesn't listen, or isn't known, won't be there in a second; who hangs up or stalls may."""
    if isinstance(reason, TimeoutError):
        return _Answer(trouble="the endpoint didn't answer in time", later=True)
    if isinstance(reason, ConnectionError) and not isinstance(reason, ConnectionRefusedError):
        return _Answer(trouble="the endpoint hung up", later=True)
    return _Answer(trouble=f"the endpoint can't be reached ({type(reason).__name__})")


def _wait(headers: Message) -> float | None:
    """``Retry-After`` in seconds, which may be a number or a date; None where there is none that can be read."""
    said = str(headers.get("Retry-After") or "").strip()
    if said.isdecimal():
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
