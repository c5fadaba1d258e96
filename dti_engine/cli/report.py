"""`dti report`: the results of a whole run, as a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli import options
from dti_engine.cli.console import busy, print_json, print_paths, quiet_libraries
from dti_engine.cli.run_log import FILE, read_events
from dti_engine.errors import ConfigurationError
from dti_engine.files import atomic_write, is_generated_page, require_replaceable

if TYPE_CHECKING:
    from dti_engine.quality.run_log import RunHistory

_DEFAULT_OUTPUT = "tokens"  # of `dti train`

EXAMPLES = (
    "dti report tokens",
    "dti report tokens --output run.html",
    "dti report tokens --json",
)


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The output folder of [cyan]dti train[/], or the folder of images in which it is.",
            show_default=False,
        ),
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
    """Show a run of any size on one self-contained page, worst first: failures, outliers, the best.

    Reads tokens, the log and validation images; the page names what is missing or damaged. Prints
    its path, or with --json the same facts.
    """
    quiet_libraries(downloading=False)

    folder = _run_folder(folder)
    path = output or folder / "report.html"
    require_replaceable(path, is_generated_page)

    from dti_engine.quality.report_page import render
    from dti_engine.quality.summary import collect_report

    with busy(f"reading {str(folder)!r}"):
        summary = collect_report(folder, _history(folder))
        page = render(summary, folder)
        # Names and messages may contain characters that UTF-8 cannot encode.
        atomic_write(path, page.encode("utf-8", "replace"))
    if as_json:
        print_json(summary.document() | {"page": str(path)})
    else:
        print_paths([path])


def _run_folder(path: Path) -> Path:
    """Return the folder of a run that a user names by itself, a file of it, or its images."""
    from dti_engine.images.bundles.paths import bundle_path  # loads Pillow

    path = bundle_path(path)
    if path.is_file() and (path.name == FILE or path.suffix == ".safetensors"):
        return path.parent
    within = path / _DEFAULT_OUTPUT
    has_run = (path / FILE).exists() or any(path.glob("*.safetensors"))
    return within if not has_run and (within / FILE).exists() else path


def _history(folder: Path) -> "RunHistory":
    from dti_engine.quality.run_log import RunHistory

    try:
        return RunHistory.of(read_events(folder / FILE))
    except ConfigurationError as error:
        return RunHistory(problem=str(error))
