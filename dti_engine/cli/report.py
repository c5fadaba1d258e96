"""`dti report`: what came of a whole run, as a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli import options
from dti_engine.cli.console import busy, print_json, print_paths, quiet_libraries
from dti_engine.cli.run_log import FILE, read_events
from dti_engine.errors import ConfigurationError
from dti_engine.files import atomic_write

if TYPE_CHECKING:
    from dti_engine.quality.run_log import History

EXAMPLES = (
    "dti report tokens",
    "dti report tokens --output run.html",
    "dti report tokens --json",
)


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="That [cyan]dti train[/] wrote to.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="The page to write.",
            show_default="DIR/report.html",
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show a run of any size on one page, worst first: what failed, what is odd, what is good.

    Reads tokens, the log and the images that tokens were tried out in; what is missing or damaged
    is said on the page. It needs nothing beside it and can be sent to others. Prints its path, or
    with --json the same facts.
    """
    quiet_libraries(downloading=False)

    from dti_engine.quality.page import render
    from dti_engine.quality.summary import collect

    with busy(f"reading {str(folder)!r}"):
        summary = collect(folder, _history(folder))
        page = render(summary, folder)
        path = output or folder / "report.html"
        # Names and messages may hold what has no place in UTF-8.
        atomic_write(path, page.encode("utf-8", "replace"))
    if as_json:
        print_json(summary.document() | {"page": str(path)})
    else:
        print_paths([path])


def _history(folder: Path) -> "History":
    from dti_engine.quality.run_log import History

    try:
        return History.of(read_events(folder / FILE))
    except ConfigurationError as error:
        return History(problem=str(error))
