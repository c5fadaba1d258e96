"""What both commands of `dti evaluate` share: progress, digests of weights, written results."""

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dti_engine.cli.console import notes, print_json, print_paths, results, say
from dti_engine.cli.progress import span
from dti_engine.files import atomic_write

OnProgress: TypeAlias = Callable[[str, int, int], None]

QuickOption: TypeAlias = Annotated[
    bool, typer.Option("--quick", help="Use a few of everything, to see that the command works.")
]
NumTrainingSeedsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of trainings of each subject, each from a seed of its own.",
        show_default="2 on the miniature, 1 on photographs and with --quick",
    ),
]
NumImageSeedsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of images of each subject in each prompt.",
        show_default="2 on the miniature, 4 on photographs, 1 with --quick",
    ),
]
StepsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Training steps of a token.",
        show_default="200 on the miniature, else the recipe's; 100 with --quick",
    ),
]

SCORER = "scorer.safetensors"  # the miniature's, beside its weights

_LINE_INTERVAL_S = 30
# The folders of weights that the engine reads. The hub's cache also holds what other programs have
# fetched of the same model: other precisions, other parts, or everything in one file.
_PARTS = ("text_encoder", "text_encoder_2", "transformer", "unet", "vae")
_VARIANT = re.compile(r"[.](fp16|bf16)[.-]|non_ema")


@contextmanager
def study_progress() -> Generator[OnProgress]:
    """Show a progress bar per activity; without a terminal, a line for its first part and updates.

    The callback must be called before the first part of each activity is done: what earlier starts
    did says nothing about the remaining time.
    """
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    tasks = {}
    begun: dict[str, tuple[int, float]] = {}  # activity -> done at its beginning, and the time
    unstarted: set[str] = set()  # activities whose first part is not done yet
    last_line_at = -float(_LINE_INTERVAL_S)
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bars:

        def on_progress(activity: str, done: int, total: int) -> None:
            nonlocal last_line_at
            now = time.monotonic()
            if activity not in begun:
                begun[activity] = done, now
                unstarted.add(activity)
            left = _left(done, total, *begun[activity], now)
            if notes.is_terminal:
                if activity not in tasks:
                    tasks[activity] = bars.add_task(activity, total=total, left="")
                bars.update(tasks[activity], completed=done, left=left)
                return
            # Said at once, whatever the interval: the first part of an activity tells its pace.
            is_first_part = activity in unstarted and done > begun[activity][0]
            if is_first_part or done == total or now - last_line_at >= _LINE_INTERVAL_S:
                last_line_at = now
                text = f"{time.strftime('%H:%M:%S')}  {activity}: {done} of {total}"
                say(f"{text}, {left}" if left else text)
            if is_first_part:
                unstarted.discard(activity)

        yield on_progress


def _left(done: int, total: int, done_before: int, begun_at: float, now: float) -> str:
    """Return `0:45:12 left`, extrapolated from this start; empty if there is no basis yet."""
    if not done_before < done < total:
        return ""
    return f"{span((now - begun_at) / (done - done_before) * (total - done))} left"


def weights_digest(folder: Path) -> str:
    """Return the sha256 of a model's weights, so that no other model continues its evaluation.

    Only the files that the engine reads count, because a folder of weights may get others.
    """
    patterns = [SCORER, *(f"{part}/*.safetensors" for part in _PARTS)]
    return _digest(folder, patterns)


def scorer_digest(folder: Path) -> str:
    """Return the sha256 of a scorer's weights, in the layout of transformers."""
    return _digest(folder, ["model*.safetensors"])


def _digest(folder: Path, patterns: list[str]) -> str:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    digest = hashlib.sha256()
    for path in sorted(found):
        if _VARIANT.search(path.name):
            continue
        # The name counts: the same bytes as another part would be another model.
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def repeatable_name(weights: str, name: str) -> str:
    """Return what to give as --model for the same model, without paths.

    That is the name or hub id as it was given, with its revision, but only `name` for a folder,
    because a report may be published.
    """
    from dti_engine.backbones.registry import catalogue

    # A short name takes precedence over a folder of the same name.
    is_known = weights.partition("@")[0] in catalogue()
    return name if Path(weights).expanduser().exists() and not is_known else weights


def write_results(
    folder: Path, report: str, document: Mapping[str, Any], summary: RenderableType | None
) -> None:
    """Write report.md and results.json; print a summary and the paths.

    Without a summary, print the document as JSON instead.
    """
    atomic_write(folder / "report.md", report.encode())
    atomic_write(folder / "results.json", json.dumps(document, indent=2).encode())
    if summary is None:
        print_json(document)
    else:
        results.print(summary)
        print_paths([folder / name for name in ("report.md", "sheet.png", "results.json")])


def is_miniature(weights: str) -> bool:
    """Return whether these weights come with a scorer of their own."""
    return weights == "miniature" or (Path(weights).expanduser() / SCORER).is_file()


def command_line(
    command: str, switches: Mapping[str, bool], values: Iterable[tuple[str, object]]
) -> str:
    """Return the command line with these options; switches that are off are left out."""
    words = [str(word) for option in values for word in option]
    given = [name for name, is_on in switches.items() if is_on]
    return shlex.join(["dti", "evaluate", command, *given, *words])
