"""How commands talk: results on stdout, everything meant for a watching person on stderr.

With --json, stdout carries one JSON document and nothing else.
"""

import json
import logging
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from dti_engine.errors import ConfigurationError, DTIError, FailedError

results = Console(highlight=False, emoji=False)
notes = Console(stderr=True, highlight=False, emoji=False)


class Commands(TyperGroup):
    """A group of commands whose errors on purpose become one message and an exit code.

    2: what was asked for cannot be done; 1: it failed on the way.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DTIError as error:
            say(str(error), label="[bold red]error:[/] ")
            raise typer.Exit(1 if isinstance(error, FailedError) else 2) from error


def examples(*commands: str) -> str:
    """An epilog that shows these command lines."""
    lines = (f"[dim]$[/] [cyan]{escape(command)}[/]" for command in commands)
    return "\n".join(["[bold]Examples[/]", *lines])


def mount(
    app: typer.Typer,
    command: Callable[..., None],
    commands: Sequence[str],
    *,
    name: str | None = None,
    panel: str | None = None,
) -> None:
    """Add a command, by its function's name if None; its docstring is the help, with examples.

    panel: what it stands under in the list of commands.
    """
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    # Typer keeps the line breaks of a docstring, which fit no terminal but ours.
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    epilog = examples(*commands)
    app.command(name, help=text, epilog=epilog, rich_help_panel=panel)(command)


def say(text: str, *, label: str = "") -> None:
    """A line to whoever watches; `text` is taken literally, `label` may have markup."""
    notes.print(label + escape(text), soft_wrap=True)


def warn(message: str) -> None:
    say(message, label="[yellow]warning:[/] ")


def print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))


def print_paths(paths: Sequence[Path]) -> None:
    """Paths, one a line, unwrapped, for pipes as well as for people."""
    for path in paths:
        typer.echo(str(path))


def output_folder(path: Path) -> Path:
    """The folder, made if need be. Raises: ConfigurationError if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the output folder {str(path)!r} ({error.strerror}); give another one"
        ) from error
    return path


@contextmanager
def busy(doing: str) -> Generator[None]:
    """A spinner while something without steps goes on; a plain line where there is no terminal."""
    if notes.is_terminal:
        with notes.status(escape(f"{doing} ...")):
            yield
    else:
        say(f"{doing} ...")
        yield


def quiet_libraries(*, downloading: bool) -> None:
    """Keep messages that mean nothing to a user off the screen. To be called before they load.

    The Hub's switch silences bars of loading as well as of downloading; the latter are of use.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # tells that it builds a font cache
    if not downloading:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
