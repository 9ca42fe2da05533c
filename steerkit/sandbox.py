"""Chat templates are programs of strangers: they are rendered in jinja's sandbox, within bounds of time and size.

The sandbox keeps a template from running code, but not from looping for a day or from making a text of a terabyte. Two
things bound it here, both of which hold in any thread and on any system, since neither asks for a signal:

- what repeats (the bodies of loops and macros, and the tests of loops) counts each time that it is passed, and asks for
  the processor time that this thread has spent on the template;
- what makes a value (operators, ``~``, calls, filters, slices, lists) computes how large it would be before it makes
  it, and all that was made counts towards one sum. So no single step takes long, and no step is unseen.

Nothing of this changes what a template renders; see ``steerkit.templates.compiled`` for how it is used.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from steerkit import sizing
from steerkit.sizing import TooMuchError

SECONDS: Final = 2.0
"""Processor time of one rendering. Those of known chat templates take milliseconds."""
EACH: Final = 0.1
"""Processor time of a rendering on average, once ``SECONDS`` are used up: a data set is rendered row by row."""
_SHORT: Final = 100_000
"""Characters of a conversation that is to take no longer; longer ones may in proportion."""
LONGEST_TEMPLATE: Final = 200_000
"""Characters. Known chat templates have up to some 30,000."""
LARGEST_VALUE: Final = 10_000_000
LARGEST_SUM: Final = 50_000_000
"""Characters of all values that are made, rendered or not; list items count ten."""
_PER_INPUT: Final = 10
"""A conversation of this many times fewer characters than ``LARGEST_VALUE`` raises the bounds."""
_LONGEST_MESSAGE: Final = 300
_EVERY: Final = 64
"""Steps between two looks at the clock."""
_OF_A_STEP: Final = 2_000
"""Characters, made or looked at, that count as one more step."""
_COUNT, _PASS, _MADE, _JOINED = (f"steerkit {name}" for name in ("count", "pass", "made", "joined"))
"""Filters that a template can't name, since they have a space in them."""

_clock: Callable[[], float] = getattr(time, "thread_time", time.perf_counter)


class Budget:
    """What one rendering may take.

    Args:
        given: characters that the template is given.
        seconds: of processor time.
    """

    def __init__(self, given: int = 0, seconds: float = SECONDS) -> None:
        self.largest = max(LARGEST_VALUE, _PER_INPUT * given)
        self._left = self._room = max(LARGEST_SUM, _PER_INPUT * _PER_INPUT * given)
        self.seconds, self._began = seconds, _clock()
        self._steps = 0

    @property
    def used(self) -> float:
        """Seconds so far."""
        return _clock() - self._began

    def spend(self, made: int = 0, looked: int = 0) -> None:
        """Count a step, what it makes and what it looks at, in characters. Raises ``TooMuchError`` beyond a bound."""
        self._left -= made
        if self._left < 0:
            raise TooMuchError(f"it makes more than {self._room:,} characters")
        self._steps += 1 + (made + looked) // _OF_A_STEP
        if self._steps >= _EVERY:
            self._steps = 0
            if self.used > self.seconds:
                each = "" if self.seconds == SECONDS else f", and each time longer than {EACH:g}"
                raise TooMuchError(f"it takes longer than {SECONDS:g} seconds{each}")


_present = threading.local()


def _budget() -> Budget:
    found: Budget = _present.budget
    return found


@contextmanager
def _within(budget: Budget) -> Iterator[None]:
    before = getattr(_present, "budget", None)
    _present.budget = budget
    try:
        yield
    finally:
        _present.budget = before


def why(error: BaseException) -> str:
    """What a template did, as the end of a sentence, on one line and without a full stop."""
    if isinstance(error, RecursionError):
        return "it calls itself without end, or is nested too deeply"
    if isinstance(error, MemoryError):
        return "it is nested too deeply, or takes more memory than there is"
    said = " ".join(str(error).split()).removesuffix(".") or "no message"
    said = said if len(said) <= _LONGEST_MESSAGE else f"{said[:_LONGEST_MESSAGE]}..."
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{said} (line {error.lineno})"
    return said if isinstance(error, jinja2.TemplateError) else f"it raised {type(error).__name__}: {said}"


class BoundedTemplate:
    """A template as transformers renders it.

    Args:
        source: the template.
        names: what it may call: functions, and values that are the same in every rendering.

    Raises:
        jinja2.TemplateError: where it is none, or a larger one than any chat template is.
        Exception: whatever else Python raises where it compiles what somebody wrote to break it.
    """

    def __init__(self, source: str, names: Mapping[str, Any]) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise TooMuchError(
                f"it has {len(source):,} characters, and chat templates have {LONGEST_TEMPLATE:,} at most"
            )
        environment = _Bounded()
        environment.globals.update(names)
        with _within(Budget()):
            self._template = environment.from_string(source)
        self._seconds = SECONDS

    def render(self, arguments: Mapping[str, Any]) -> str:
        """Render it. Raises ``TooMuchError`` beyond a bound, and whatever the template raises."""
        # Of what the caller gives, nothing is larger than what memory has held already.
        given = sizing.weigh(arguments, None)
        budget = Budget(given, self._seconds)
        try:
            with _within(budget):
                return self._template.render(arguments)
        finally:
            # Threads that render at the same time may each take what is left: that is a few times as much.
            self._seconds = min(SECONDS, max(0.0, self._seconds - budget.used) + EACH * max(1.0, given / _SHORT))


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_finalized
        )
        del self.globals["lipsum"]  # random words
        self.globals |= {"dict": _Dict(), "namespace": _Namespace}
        self.filters["tojson"] = _tojson
        self.filters = {name: _guarded(name, function) for name, function in self.filters.items()}
        self.filters |= {_COUNT: _count, _PASS: _passed, _MADE: _made, _JOINED: _joined}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget()
        budget.spend(sizing.of_operation(operator, left, right, budget.largest))
        found = super().call_binop(context, operator, left, right)
        if isinstance(found, (list, tuple)):
            sizing.weigh(found, budget.largest)
        return found

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.spend()
        args = sizing.bounded_call(obj, args, kwargs, budget.largest)
        found = super().call(context, obj, *args, **kwargs)
        budget.spend(sizing.surface(found))
        if isinstance(obj, _Dict):
            sizing.weigh(found, budget.largest)
        return found


def _finalized(context: Context, value: Any) -> Any:
    budget = _budget()
    budget.spend(len(value) if isinstance(value, str) else sizing.weigh(value, budget.largest))
    return value


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that computes how large what it makes would be."""
    leading = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context, or the environment

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.spend()
        given = sizing.bounded_filter(name, args[leading:], kwargs, budget.largest)
        found = function(*args[:leading], *given, **kwargs)
        budget.spend(sizing.surface(found), sum(sizing.weigh(one, budget.largest) for one in given[:1]))
        return found

    return guarded


def _count(context: Context, made: int) -> str:
    _budget().spend(made)
    return ""


def _passed(context: Context, made: int) -> bool:
    _budget().spend(made)
    return True


def _made(context: Context, value: Any) -> Any:
    budget = _budget()
    nested = isinstance(value, (list, tuple, dict))
    budget.spend(sizing.surface(value), sizing.weigh(value, budget.largest) if nested else 0)
    return value


def _joined(context: Context, values: list[Any]) -> str:
    budget = _budget()
    total = sum(len(value) if isinstance(value, str) else sizing.weigh(value, budget.largest) for value in values)
    sizing.require(total, budget.largest)
    budget.spend(total)
    return "".join(map(str, values))


# Given the context, jinja doesn't call them while it compiles.
for _function in (_finalized, _count, _passed, _made, _joined):
    jinja2.pass_context(_function)


class _Dict:
    """``dict`` without what the class of that name reaches, as in transformers."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """A namespace that holds no private names, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `self` may be one of the names
        held = dict(*args[1:], **kwargs)
        for name in held:
            _require_public(name)
        Namespace.__init__(args[0], held)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace holds no name with an underscore before it, such as {name!r}")


class _Counting(NodeTransformer):
    """Puts a count into whatever repeats, and a look at its size around whatever is made without a call."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, _counted(node.body))
        if node.test is not None:
            node.test = nodes.And(_filter(nodes.Const(0), _PASS), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, _counted(node.body))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        self.generic_visit(node)
        node.body.insert(0, _counted(node.body))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes), _JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(node, _MADE)

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, _MADE) if any(not isinstance(item, nodes.Const) for item in node.items) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        made = node.ctx == "load" and any(not isinstance(item, nodes.Const) for item in node.items)
        return _filter(node, _MADE) if made else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, _MADE) if node.items else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, _MADE) if isinstance(node.arg, nodes.Slice) else node


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=getattr(node, "lineno", 1) or 1)


def _counted(body: list[nodes.Node]) -> nodes.Output:
    """Prints nothing, and counts the plain text of a body. What repeats within it counts itself."""
    return nodes.Output([_filter(nodes.Const(sum(map(_plain_text, body))), _COUNT)])


def _plain_text(node: nodes.Node) -> int:
    if isinstance(node, nodes.TemplateData):
        return len(node.data)
    if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
        return 0
    return sum(map(_plain_text, node.iter_child_nodes()))


class _Generation(Extension):
    """The tag ``{% generation %}``, which marks for transformers what an assistant says. It changes no text."""

    tags = {"generation"}  # noqa: RUF012  (jinja declares it as an instance's)

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body, lineno=line)

    def _said(self, caller: Macro) -> str:
        return caller()
