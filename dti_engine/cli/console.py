"""Output of commands: results on stdout, everything for a watching person on stderr.

With --json, stdout carries JSON and nothing else.
"""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from typer.core import TyperGroup

from dti_engine.errors import ConfigurationError, DTIError, FailedError

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""The characters that control a terminal or the direction of writing, except for the line feed."""


class PlainConsole(Console):
    """A console that shows control characters in texts as escapes, in every table and line.

    Names of files, subjects and tags, and reasons of failures, come from others. An escape
    sequence in one could clear the screen, set the clipboard or show another text than it is.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable; those that move the cursor are rich's own."""
        for text, style, control in super().render(renderable, options):
            shown = text if control else _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
            yield Segment(shown, style, control)


results = PlainConsole(highlight=False, emoji=False)
notes = PlainConsole(stderr=True, highlight=False, emoji=False)

_EXTRAS: Mapping[str, Sequence[str]] = {
    "engine": (
        "diffusers",
        "huggingface_hub",
        "jinja2",
        "matplotlib",
        "numpy",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "transformers",
    ),
    "ray": ("ray",),
}
"""Optional packages, by the extra of pyproject.toml that installs them."""


class Commands(TyperGroup):
    """A group of commands that turns expected errors into one message and an exit code.

    The exit code is 2 if the request cannot be fulfilled, also for lack of an optional package,
    and 1 if it failed on the way.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DTIError as error:
            say(str(error), label="[bold red]error:[/] ")
            raise typer.Exit(1 if isinstance(error, FailedError) else 2) from error
        except ModuleNotFoundError as error:
            extra = _extra_of(error)
            if extra is None:
                raise
            # The group of a subcommand handles the error first: `dti keys` sees it before `dti`.
            _, *groups = ctx.command_path.split()  # the first is how the program was started
            command = " ".join([*groups, *filter(None, [ctx.invoked_subcommand])])
            say(
                f"dti {command} needs the extra '{extra}': pip install 'dti[{extra}]'",
                label="[bold red]error:[/] ",
            )
            raise typer.Exit(2) from error


def _extra_of(error: ModuleNotFoundError) -> str | None:
    """Return the extra that installs the missing package, or None if there is none."""
    package = (error.name or "").partition(".")[0]
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), None)


def require_extra(extra: str) -> None:
    """Raise ModuleNotFoundError if a package of an extra is missing; none of them is imported.

    A command calls it first, so that a user without the extra learns that before anything about
    the other arguments. `Commands` turns the error into a message.
    """
    for package in _EXTRAS[extra]:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def installed_extras() -> dict[str, bool]:
    """Return whether all packages of each extra are installed, by its name; imports none."""
    return {
        extra: all(find_spec(package) is not None for package in packages)
        for extra, packages in _EXTRAS.items()
    }


def examples(*commands: str) -> str:
    """Return an epilog that shows these command lines."""
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
    """Add a command, whose docstring is its help.

    Args:
        app: gets the command.
        command: its function.
        commands: examples of its use.
        name: the function's name if None.
        panel: the heading over the command in the list of commands.
    """
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    # Typer would keep the line breaks of the docstring, which fit no terminal but ours.
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    epilog = examples(*commands)
    app.command(name, help=text, epilog=epilog, rich_help_panel=panel)(command)


def say(text: str, *, label: str = "") -> None:
    """Print a line to stderr; `text` is taken literally, `label` may have markup."""
    # Not wrapped: a path or command that is broken into lines cannot be copied.
    notes.print(label + escape(text), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning to stderr."""
    say(message, label="[yellow]warning:[/] ")


def print_json(document: object) -> None:
    """Print a document to stdout."""
    typer.echo(json.dumps(document, indent=2))


def print_paths(paths: Sequence[Path]) -> None:
    """Print paths to stdout, one per line and unwrapped, so that they can be piped."""
    for path in paths:
        typer.echo(str(path))


def output_folder(path: Path) -> Path:
    """Return the folder, made if need be. Raises: ConfigurationError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the output folder {str(path)!r} ({error.strerror}); give another one"
        ) from error
    return path


@contextmanager
def busy(activity: str) -> Generator[None]:
    """Show a spinner during an activity without steps; a plain line without a terminal."""
    if notes.is_terminal:
        with notes.status(escape(f"{activity} ...")):
            yield
    else:
        say(f"{activity} ...")
        yield


def print_any_text() -> None:
    """Have the standard streams escape the characters that their encoding lacks.

    The name of a folder may not fit the code page of a Windows terminal, or ASCII, and a command
    must not fail after its work because of that.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries(*, downloading: bool) -> None:
    """Keep messages that mean nothing to a user off the screen. Call it before they load.

    The switch of the Hub hides bars of loading as well as of downloading; the latter are useful.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it announces that it builds a cache
    if not downloading:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
