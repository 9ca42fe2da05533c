"""What a Python user asks of models, and is told where it can't be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import steerkit
from steerkit.errors import ModelError, PositionError, SiteError, SteerkitError, UnknownNameError
from steerkit.session.model import LiveModel
from tests.session.test_words import direction

TINY = "tiny-random:llama"


@pytest.mark.parametrize(
    ("source", "words", "said"),
    [
        ("", {}, "A model is named by an alias, a hub id, a folder or a .gguf file, not by ''."),
        (" ", {}, "A model is named by an alias, a hub id, a folder or a .gguf file, not by ' '."),
        (3, {}, "A model is named by an alias, a hub id, a folder or a .gguf file, not by 3."),
        (None, {}, "A model is named by an alias, a hub id, a folder or a .gguf file, not by None."),
        (TINY, {"dtype": None}, "Unknown dtype None. Available: auto, bfloat16, float16, float32."),
        (
            TINY,
            {"dtype": "flaot32"},
            "Unknown dtype 'flaot32'. Did you mean 'float32' or 'float16'? "
            "Available: auto, bfloat16, float16, float32.",
        ),
        (TINY, {"dtype": torch.float32}, "Unknown dtype torch.float32. Available: auto, bfloat16, float16, float32."),
        (TINY, {"device": None}, "None is not a device. Write auto, cpu, cuda or cuda:1."),
        (TINY, {"device": "cupa"}, "'cupa' is not a device. Write auto, cpu, cuda or cuda:1."),
        (TINY, {"adapter": 3}, "Unknown architecture 3. Available: auto, gemma, llama, qwen, qwen1, yi."),
        (TINY, {"batch_tokens": 0}, "batch_tokens is a whole number of at least 1, not 0."),
        (TINY, {"batch_tokens": "x"}, "batch_tokens is a whole number of at least 1, not 'x'."),
        (TINY, {"chat_template": 3}, "chat_template is default, none, or the text of a Jinja template, not 3."),
        (
            TINY,
            {"chat_template": "defualt"},
            "chat_template 'defualt' is no Jinja template. Did you mean 'default'? Available: default, none.",
        ),
        (TINY, {"system_prompt": 3}, "system_prompt is a text, or None for no system message, not 3."),
        (
            TINY,
            {"chat_template_arguments": 3},
            "chat_template_arguments are a mapping, as in {'enable_thinking': False}, not 3.",
        ),
    ],
)
def test_what_cannot_be_loaded_says_what_to_write(source: Any, words: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerkitError) as caught:
        steerkit.load_model(source, **words)
    assert str(caught.value) == said


def test_misspelt_keywords_get_the_nearest_one(llama: LiveModel) -> None:
    anything: Any = steerkit
    live: Any = llama
    for call, said in (
        (
            lambda: anything.load_model(TINY, dtpe="float32"),
            "load_model has no argument 'dtpe'. Did you mean 'dtype' or",
        ),
        (lambda: anything.wrap(live.hf_model, adaptr="llama"), "wrap has no argument 'adaptr'. Did you mean 'adapter'"),
        (lambda: live.explain(mod="fold"), "Runtime.explain has no argument 'mod'. Did you mean 'mode'?"),
        (lambda: live.steer(expected_token=3), "Did you mean 'expected_tokens'?"),
        (lambda: live.steer_rows([], mod="hook"), "Did you mean 'mode'?"),
        (lambda: live.prepare(row=3), "Did you mean 'rows'?"),
        (lambda: live.capture("a", "embed", knd="mean"), "Did you mean 'kind'?"),
    ):
        with pytest.raises(UnknownNameError) as caught:
            call()
        assert said in str(caught.value)


@pytest.mark.parametrize("number", [-1, "x", None, float("nan"), True])
def test_a_number_of_expected_tokens_is_one(llama: LiveModel, number: Any) -> None:
    interventions = steerkit.add(direction().with_vectors(torch.ones(1, llama.layout.d_model)))
    with pytest.raises(SteerkitError) as caught:
        llama.explain(interventions, expected_tokens=number)
    assert str(caught.value) == f"expected_tokens is how many tokens will pass, 0 or more, not {number!r}."
    with pytest.raises(SteerkitError, match="expected_tokens is"), llama.steer(interventions, expected_tokens=number):
        pass
    assert llama.explain(interventions, expected_tokens=0)


@pytest.mark.parametrize(
    ("read", "error", "said"),
    [
        (lambda live: live.capture("a", []), SiteError, "There is no site to read at: name one"),
        (
            lambda live: live.capture("a", 3),
            SiteError,
            "3 is neither a site, such as 'blocks.14.resid_pre', nor a list",
        ),
        (
            lambda live: live.capture("a", "embed", []),
            PositionError,
            "There are no positions to read: name one at least",
        ),
        (lambda live: live.capture("a", "embed", padding_side="lft"), SteerkitError, "Did you mean 'left'?"),
        (
            lambda live: steerkit.capture(live.hf_model, "a", "embed"),
            ModelError,
            "capture takes a model from steerkit.load",
        ),
    ],
)
def test_nothing_to_read_is_told(
    llama: LiveModel, read: Callable[[Any], object], error: type[SteerkitError], said: str
) -> None:
    with pytest.raises(error) as caught:
        read(llama)
    assert said in str(caught.value)
