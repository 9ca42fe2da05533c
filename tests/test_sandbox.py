"""Chat templates within bounds of time and size: what they render is what transformers renders, and nothing hangs."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest

from steerkit import sandbox
from steerkit.engine.tiny.models import CHAT_TEMPLATE, tiny_tokenizer
from steerkit.errors import ModelError
from steerkit.sandbox import SECONDS
from steerkit.templates import compiled

ROOT = Path(__file__).parents[1]
TALK = [
    {"role": "system", "content": "Be <b>kind</b>."},
    {"role": "user", "content": "  Hällo\n\n{{ 7 }} 😀 "},
    {"role": "assistant", "content": "Well?\n"},
    {"role": "user", "content": "Now."},
]
GROW = "{%% set ns = namespace(x='ab', t=[1, 2]) %%}{%% for i in range(60) %%}{%% set %s %%}{%% endfor %%}{{ ns.%s }}"
LARGE, SUM, SLOW, DEEP = (
    "a value of more than",
    "makes more than",
    "takes longer than 2 seconds",
    "calls itself without",
)

HOSTILE = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": SLOW,
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}": SLOW,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}": SLOW,
    "{% set x = 'a' * 9000000 %}{% for i in range(99999) %}{% set y = x.count('b') %}{% endfor %}": SLOW,
    "{% set x = 'a' * 9000000 %}{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% endfor %}": SLOW,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": DEEP,
    "{% for i in [1] recursive %}{{ loop([i]) }}{% endfor %}": DEEP,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "nested too deeply",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000: "nested too deeply",
    "{% for %}": "Expected an expression, got 'end of statement block' (line 1)",
    "{{ range(1000000000) | list }}": "Range too big",
    "{{ 'a' * 10000000000 }}": LARGE,
    "{% set n = 10 ** 10 %}{{ 'a' * n }}": LARGE,
    "{{ 9 ** (9 ** 9) }}": "a number of more than 100,000 bits",
    GROW % ("ns.x = ns.x ~ ns.x", "x"): LARGE,
    GROW % ("ns.x = ns.x + ns.x", "x"): LARGE,
    GROW % ("ns.x = ns.x.replace('a', ns.x)", "x"): LARGE,
    GROW % ("ns.x = ns.x | replace('a', ns.x)", "x"): LARGE,
    GROW % ("ns.x = ns.x.join([ns.x, ns.x])", "x"): LARGE,
    GROW % ("ns.x = [ns.x, ns.x] | join(ns.x)", "x"): LARGE,
    GROW % ("ns.t = [ns.t, ns.t]", "t"): LARGE,
    GROW % ("ns.t = (ns.t, ns.t)", "t"): LARGE,
    GROW % ("ns.t = {'a': ns.t, 'b': ns.t}", "t"): LARGE,
    GROW % ("ns.t = dict(a=ns.t, b=ns.t)", "t"): LARGE,
    "{{ dict.fromkeys(range(99999), 'x' * 99999) }}": LARGE,
    "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}": LARGE,
    "{{ ('\t' * 99999).expandtabs(99999) }}": LARGE,
    "{{ ('a\n' * 99999) | indent(900000) }}": LARGE,
    "{{ ('ab' * 4000000) | wordwrap(1) }}": LARGE,
    "{{ '%1000000000d' % 1 }}": "pads to more than",
    "{{ '%*d' % (1000000000, 1) }}": "pads to more than",
    "{{ '%1000000000d' | format(1) }}": "pads to more than",
    "{{ '{:1000000000}'.format(1) }}": "pads to more than",
    "{{ '{:{w}}'.format(1, w='1000000000') }}": "pads to more than",
    "{{ 'a'.ljust(10000000000) }}": "asks for 10,000,000,000 of something",
    "{{ 'a' | center(10000000000) }}": "asks for 10,000,000,000 of something",
    "{{ (1).to_bytes(10000000000, 'big') }}": "asks for 10,000,000,000 of something",
    "{{ [1] | batch(10000000000, 'x') | list }}": "asks for 10,000,000,000 of something",
    "{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}": SUM,
    "{% set y %}{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}{% endset %}": SUM,
    "{% macro m() %}" + "x" * 99999 + "{% endmacro %}{% for i in range(99999) %}{% set z = m() %}{% endfor %}": SUM,
    "{% set x = 'a' * 9000000 %}" + "{% set y = x[1:] %}" * 99: SUM,
    "{% set x = 'a' * 4000000 %}" + "{% set y = x | list %}" * 99: SUM,
    "{{ range(99999) | map('string') | map('center', 900000) | join | length }}": SUM,
    "{{ lipsum(n=100000000) }}": "'lipsum' is undefined",
    "{{ ''.__class__.__mro__ }}": "is unsafe",
    "{{ '\\ud83d' ~ messages[1].content }}": "half of a surrogate pair",
    "{{ namespace(_x=1) }}": "no name with an underscore before it",
    "x" * 200_001: "it has 200,001 characters",
}  # fmt: skip


def rendered(template: str) -> str:
    return compiled(template, {"bos_token": "<s>"})(TALK, add_generation_prompt=True)


@pytest.mark.parametrize(("template", "said"), HOSTILE.items(), ids=[one[:60] for one in HOSTILE])
def test_what_a_template_takes_is_bounded_and_its_failure_is_one_sentence(
    template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine the time would be over before what grows is as large as it may be.
    added = 0 if said == SLOW else 18
    monkeypatch.setattr(sandbox, "SECONDS", SECONDS + added)
    before = time.thread_time()
    with pytest.raises(ModelError) as caught:
        rendered(template)
    assert time.thread_time() - before < SECONDS + 4 + added
    message = str(caught.value)
    assert said in message and message.startswith("The chat template ") and "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "template",
    [
        "{% set x = (range(60000) | list) * 10 %}" + "{% set y = x | reverse | list %}" * 20,
        "{% set x = (range(60000) | list) * 10 %}" + "{% set y = [x] %}" * 30,
    ],
)
def test_what_is_looked_at_takes_time_too(template: str) -> None:
    before = time.thread_time()
    with pytest.raises(ModelError, match="takes longer than 2 seconds"):
        rendered(template)
    assert time.thread_time() - before < SECONDS + 4


def test_the_bounds_hold_in_any_thread_and_one_thread_doesnt_spend_anothers() -> None:
    endless = compiled("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", {})
    short = compiled("{% for i in range(9999) %}{{ i }}{% endfor %}", {})
    said: list[str] = []

    def ask() -> None:
        try:
            endless(TALK)
        except ModelError as error:
            said.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = {short(TALK) for _ in range(20)}
    for thread in threads:
        thread.join(120)
    assert [SLOW in one for one in said] == [True, True]
    assert found == {"".join(map(str, range(9999)))}


def test_many_renderings_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of which each look at it takes a hundredth of a second, and which is looked at every 64 steps."""
    ticks = itertools.count()
    monkeypatch.setattr(sandbox, "_clock", lambda: 0.01 * next(ticks))
    slow, done = compiled("{% for i in range(1500) %}{% endfor %}", {}), 0
    with pytest.raises(ModelError, match=r"takes longer than 2 seconds, and each time longer than 0\.1"):
        while done < 20:
            slow(TALK)
            done += 1
    assert 2 <= done < 10
    quick = compiled("{% for i in range(64) %}{{ i }}{% endfor %}", {})
    assert len({quick(TALK) for _ in range(500)}) == 1


def test_a_long_conversation_is_no_reason_to_refuse_it() -> None:
    text = "word " * 2_000_000
    talk = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    render = compiled("{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '\n' }}{% endfor %}", {})
    assert len(render(talk)) == 2 * (len(text) - 1) + len("<user>\n<assistant>\n")


TEMPLATES = {
    "tiny": CHAT_TEMPLATE,
    **{path.stem: path.read_text("utf-8") for path in sorted((ROOT / "recipes/paper/templates").glob("*.jinja"))},
    "loops": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.last }} {{ m.content | trim }}"
    "{% if loop.index == 2 %}{% continue %}{% endif %}{{ loop.cycle('a', 'b') }}\n{% endfor %}",
    "filtered": "{% for m in messages if m.role != 'system' %}{{ m['content'] | replace('\n', '_') }}{% else %}none"
    "{% endfor %}",
    "macros": "{%- macro say(m, end='!') -%}<{{ m.role }}>{{ m.content | upper }}{{ end }}"
    "{% if caller %}{{ caller(3) }}{% endif %}{%- endmacro -%}\n"
    "{% for m in messages %}{{ say(m) }}{% endfor %}{% call(x) say(messages[0]) %}{{ x }}{% endcall %}",
    "spaces": "  \n{% if messages %}\n  {{- 'a' ~ 1 ~ none ~ messages | length }}\n{% endif %}\n",
    "json": "{{ messages | tojson }}{{ messages[1] | tojson(indent=2) }}{{ {'b': [1, 'ä'], 'a': none} | tojson }}",
    "nothing said": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ foo is defined }}"
    "{{ bos_token }}",
    "state": "{% set ns = namespace(found=[], n=0) %}{% for m in messages %}{% set ns.found = ns.found + [m.role] %}"
    "{% set ns.n = ns.n + m.content | length %}{% endfor %}{{ ns.found }}{{ ns.n }}{{ messages[1:] | length }}"
    "{{ messages[::-1][0].role in ('user', 'x') }}{{ 'a' < 'b' < 'c' }}{{ (1, 2) + (3,) }}{{ '%s-%d' % ('x', 3) }}"
    "{{ '{}|{:>4}'.format('y', 5) }}{{ dict(a=1, **{'b': 2}) }}",
    "marked": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "grouped": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(' + ') }}"
    "{{ messages | groupby('role') | length }}{{ [3, 1, 2] | sort | join(',') }}{{ 'a b' | title | list }}",
    "trees": "{% for x in [1, [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("generation", [False, True])
def test_a_template_renders_what_it_renders_in_transformers(name: str, generation: bool) -> None:
    tokenizer = tiny_tokenizer()
    known = tokenizer.apply_chat_template(
        TALK, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=generation, thinking=True
    )
    render = compiled(TEMPLATES[name], tokenizer.special_tokens_map)
    assert render(TALK, add_generation_prompt=generation, thinking=True) == known
