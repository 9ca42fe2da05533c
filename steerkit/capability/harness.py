"""The steered model as lm-evaluation-harness sees it, and tasks evaluated on it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.capability.scores import TaskScore, read_scores
from steerkit.errors import DataError, ModelError, SteerkitError, UnknownNameError, known_keywords, nearest

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import ChatFormat
    from steerkit.session.model import LiveModel


def require_harness() -> Any:
    """The package ``lm_eval``. It is an extra: nothing of it is imported by name, and nothing before it is needed.

    Raises:
        SteerkitError: where it isn't installed, with the command that installs it.
    """
    try:
        return import_module("lm_eval")
    except ImportError as error:
        lacking = f" ({error})" if error.name not in (None, "lm_eval") else ""
        raise SteerkitError(
            f"Capability tasks need lm-evaluation-harness, which isn't installed{lacking}. Install the extra: "
            "`pip install 'steerkit-torch[lm-eval]'`, or in a checkout `pip install -e '.[lm-eval]'`."
        ) from None


def harness_model(live: LiveModel, chat: ChatFormat | None = None) -> Any:
    """An ``lm_eval.api.model.LM`` that asks a model as it is steered at the moment of each request.

    Args:
        live: the model.
        chat: renders conversations where the harness is told to ``apply_chat_template``; the model's own if not given.

    Raises:
        SteerkitError: where the harness isn't installed.
        ModelError: for a model without a tokenizer.
    """
    require_harness()
    return _model_class()(live, live.chat if chat is None else chat)


@cache
def _model_class() -> Any:
    from steerkit.capability.texts import encode_pair, generations, loglikelihoods, rolling_loglikelihoods

    base: Any = import_module("lm_eval.api.model").LM

    class SteeredLM(base):  # type: ignore[misc]  # of an extra, so its type is known to nobody here
        """The four things that the harness asks of a model."""

        def __init__(self, live: LiveModel, chat: ChatFormat) -> None:
            super().__init__()
            self.live, self.chat = live, chat

        @property
        def device(self) -> Any:
            """Where the model's token ids go."""
            return self.live.device

        def loglikelihood(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
            """Of each ``(context, continuation)`` its log-likelihood, and whether it is what greedy decoding writes."""
            return loglikelihoods(self.live, [encode_pair(self.live, *one.args) for one in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], **kwargs: Any) -> list[float]:
            """Of each ``(text,)`` its log-likelihood."""
            return rolling_loglikelihoods(self.live, [one.args[0] for one in requests])

        def generate_until(self, requests: Sequence[Any], **kwargs: Any) -> list[str]:
            """Of each ``(context, settings)`` what the model writes."""
            return generations(self.live, [one.args for one in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """A conversation as a text; without a generation prompt, its last turn is an answer that goes on."""
            return chat_text(self.chat, chat_history, goes_on=not add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str:
            """What names the template in the harness's results."""
            return self.chat.hash if chat_template else ""

        @property
        def tokenizer_name(self) -> str:
            """What names the tokenizer in the harness's results."""
            return str(self.live.source).replace("/", "__")

    return SteeredLM


def chat_text(chat: ChatFormat, messages: Sequence[dict[str, str]], *, goes_on: bool) -> str:
    """A conversation through the chat template, up to where an answer begins.

    Args:
        chat: the template.
        messages: the turns.
        goes_on: whether the last turn is how the answer begins.
    """
    from steerkit.types import Example

    if not goes_on:
        return chat.text(Example.of(list(messages)))
    example = Example.of(list(messages[:-1]))
    return chat.text(Example(example.messages, answer_prefix=messages[-1]["content"]))


@known_keywords
def evaluate_tasks(
    model: LiveModel,
    tasks: Sequence[str] | str,
    *,
    limit: int | None = None,
    include: str | Path | None = None,
    num_fewshot: int | None = None,
    chat_template: bool = False,
    system_prompt: str | None = None,
) -> tuple[TaskScore, ...]:
    """Tasks of lm-evaluation-harness on a model as it is steered at the moment. ::

        with model.steer(steerkit.ablate(direction)):
            scores = steerkit.evaluate_tasks(model, ["arc_easy", "gsm8k"], limit=100)

    A task's context is the prompt, and what is scored or written behind it the completion: positions ``prompt``,
    ``last``, ``completion`` and ``generated`` mean that, and turns have no tokens (``user``, ``instruction``).

    Args:
        model: the model.
        tasks: names of tasks, groups or tags, with ``*`` for any letters.
        limit: most examples of each task; None for all.
        include: a folder with tasks of one's own, YAML files in the harness's format.
        num_fewshot: how many examples stand before each question; None for the task's own number.
        chat_template: whether contexts go through the model's chat template.
        system_prompt: in the place of the model's own system prompt; needs the template.

    Raises:
        SteerkitError: where the harness isn't installed.
        UnknownNameError: for a task that nobody knows.
        DataError: for a task whose data can't be loaded, or that asks for something that isn't done here.
        ModelError: where the chat template is asked for and there is none.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    for name, number, least in (("limit", limit, 1), ("num_fewshot", num_fewshot, 0)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise DataError(f"{name} is a whole number of at least {least}, not {number!r}.")
    require_harness()
    chat = _chat(model, chat_template, system_prompt)
    manager, known = _tasks(names, include)
    harness = import_module("lm_eval.evaluator")
    try:
        results = harness.simple_evaluate(
            model=harness_model(model, chat),
            tasks=known,
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat_template,
            log_samples=True,
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"The data of {', '.join(known)} can't be loaded: {error}. Without the hub, name a task with local data "
            "(include), or fill the data set cache where the hub is reachable."
        ) from None
    return read_scores(results)


def _chat(model: LiveModel, chat_template: bool, system_prompt: str | None) -> ChatFormat:
    if not chat_template and system_prompt is not None:
        raise DataError("A system prompt needs the chat template, which renders it: chat_template=True.")
    if chat_template and model.chat.name == "none":
        raise ModelError("The model has no chat template, so contexts can't go through it. Leave chat_template out.")
    return model.chat if system_prompt is None else model.chat.with_system_prompt(system_prompt)


def _manager_for(names: Sequence[str], include: str | Path | None) -> Any:
    """What knows the tasks. The harness's own are many thousands of files to read, which tasks of a folder don't need:
    a group may name some of them, and a task doesn't."""
    if include is None:
        return _manager("", (), True)
    folder = Path(include).absolute()
    files = tuple((str(path), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file())
    alone = _manager(str(folder), files, False)
    if all(alone.match_tasks([name]) for name in names) and not (alone.all_groups or alone.all_tags):
        return alone
    return _manager(str(folder), files, True)


@lru_cache(maxsize=4)
def _manager(folder: str, files: tuple[tuple[str, int], ...], defaults: bool) -> Any:
    """A task manager of a folder as its files are now, kept for the next condition."""
    made = import_module("lm_eval.tasks").TaskManager
    return made(include_path=folder or None, include_defaults=defaults)


def _tasks(names: Sequence[str], include: str | Path | None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the tasks that names mean."""
    if include is not None and not Path(include).is_dir():
        raise DataError(f"{include} is no folder. include names one with YAML files of tasks.")
    if not names:
        raise DataError("No task is named. Name one, as in tasks=['arc_easy'].")
    manager = _manager_for(names, include)
    found: dict[str, None] = {}
    for name in names:
        meant = manager.match_tasks([name])
        if not meant:
            more = len(manager.all_tasks)
            close = nearest(name, manager.all_tasks, "task").partition("Available: ")[0]
            raise UnknownNameError(
                f"The harness has no task {name!r}. {close}It has {more}, which `lm_eval ls tasks` lists; include "
                "names a folder with your own."
            )
        found.update(dict.fromkeys(meant))
    return manager, list(found)
