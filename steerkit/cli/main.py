"""The command ``steerkit``: one module per command, imported when it is the one that was asked for."""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Annotated, Any, Final

import typer

from steerkit.cli.placing import NO_ROOM
from steerkit.errors import ParallelError, SteerkitError

COMMANDS: Final[Mapping[str, str]] = {
    "run": "steerkit.cli.run:run_command",
    "sweep": "steerkit.cli.sweep:sweep_command",
    "check": "steerkit.cli.check:check_command",
    "plugins": "steerkit.cli.plugins:plugins_command",
    "inspect": "steerkit.cli.inspect:inspect_command",
    "report": "steerkit.cli.report:report_command",
    "bake": "steerkit.cli.bake:bake_command",
    "export": "steerkit.cli.export:export_command",
    "select": "steerkit.cli.select:select_command",
    "fetch": "steerkit.cli.fetch:fetch_command",
    "bench": "steerkit.cli.bench:bench_command",
    "capability": "steerkit.cli.capability:capability_command",
    "init": "steerkit.cli.init:init_command",
    "new-plugin": "steerkit.cli.new_plugin:new_plugin_command",
    "clean": "steerkit.cli.clean:clean_command",
    "compare": "steerkit.cli.compare:compare_command",
    "convert": "steerkit.cli.convert:convert_command",
    "formats": "steerkit.cli.formats:formats_command",
}

_KEPT: Final[Mapping[str, str]] = {
    "run": "Every stage that was finished is kept: the same command goes on from there.",
    "sweep": "Every stage that was finished is kept: the same command goes on from there.",
    "fetch": "The cache is as it was before.",
    "report": "The run's results are kept.",
    "bake": "Nothing was written.",
    "export": "Nothing was written.",
    "convert": "Nothing was written.",
    "init": "Nothing was written.",
    "new-plugin": "Nothing was written.",
    "clean": "What is gone is computed again when it is needed; the same command goes on.",
}
_OWN_PROCESSES: Final = frozenset({"run", "sweep"})
"""Commands that know themselves what to do with processes that torchrun started."""
_IN_STEP: Final = frozenset({"check"})
"""Commands in which all of them do the same, and one tells it (``check --explain`` loads a cut model)."""
_BRIEF: Final = frozenset({"check", "formats", "plugins"})
"""Commands that load no model and are over in a moment (``check --explain`` is none of them)."""
_IN_THE_WAY: Final = frozenset((errno.EISDIR, errno.ENOTDIR, errno.EROFS))
_NO_PATH: Final = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
"""Of names that no file can have, whichever command was given one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. An error that a user can cause ends in its message, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no "−" shows "?".
            stream.reconfigure(errors="replace")
    is_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    # Help lists all commands; anything else needs one of them, or none.
    known = [name for name in COMMANDS if name == asked]
    # What modules make when they are imported stays: looking for garbage among it is a tenth of a short command.
    collected = gc.isenabled()
    gc.disable()
    try:
        _app(known if known or "--version" in arguments else list(COMMANDS))(args=list(arguments), prog_name="steerkit")
    except KeyboardInterrupt:  # while a command is imported; once it runs it says what it keeps
        typer.echo("\nInterrupted. Nothing was changed.", err=True)
        raise SystemExit(130) from None
    finally:
        if collected:
            if is_process:
                # The process ends: what there is goes with it, and looking through it twice more would change nothing.
                gc.freeze()
            gc.enable()


def _app(names: Sequence[str]) -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.callback(invoke_without_command=not names)(_root)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        app.command(name)(_guarded(name, getattr(importlib.import_module(module), attribute)))
    return app


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Directions in the residual stream of language models: find them, steer with them, measure what they do."""
    if version:
        from steerkit import __version__

        typer.echo(f"steerkit {__version__}")
        raise typer.Exit


def _guarded(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if name not in _BRIEF or kwargs.get("explain"):
            gc.enable()
        try:
            with _one_speaks(name):
                return command(*args, **kwargs)
        except SteerkitError as error:
            _leave(str(error), error.exit_code)
        except KeyboardInterrupt as interrupt:
            # A command that was stopped before it had anything to keep says so.
            kept = str(interrupt) or _KEPT.get(name, "Nothing was changed.")
            _leave(f"\nInterrupted. {kept}", 130)
        except OSError as error:
            if error.errno in _NO_PATH:
                from steerkit.artifacts.files import shown_path

                _leave(f"{shown_path(error.filename or 'A path')}: {error.strerror}. Name another one.", 2)
            if error.errno in NO_ROOM:
                where = f" (writing {error.filename})" if error.filename else ""
                do = "Raise the limit" if error.errno == errno.EFBIG else "Free some space"
                told = f"{NO_ROOM[error.errno]}{where}. {do} and run the same command again. {_KEPT.get(name, '')}"
                _leave(told.rstrip(), 1)
            if (isinstance(error, PermissionError) or error.errno == errno.EROFS) and error.filename:
                _leave(f"No permission for {error.filename}. Choose another place, or change its permissions.", 1)
            if error.errno in _IN_THE_WAY and (path := error.filename2 or error.filename):
                _leave(f"{path}: {error.strerror}. Move what is in the way, or choose another place.", 1)
            raise

    return guarded


@contextmanager
def _one_speaks(name: str) -> Iterator[None]:
    """Of several processes that torchrun started, the first one speaks; most commands are one process's.

    Raises:
        ParallelError: for a command that several processes would carry out on their own.
    """
    if name in _OWN_PROCESSES or not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    from steerkit.engine.parallel.group import launched

    found = launched()
    if found is None:
        yield
    elif name not in _IN_STEP:
        raise ParallelError(
            f"torchrun started {found.world} processes, each of which would {name} by itself. Start it without "
            "torchrun, which is for `steerkit run` of a model that is cut (model.tensor_parallel)."
        )
    elif found.rank == 0:
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield


def _leave(message: str, code: int) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    main()
