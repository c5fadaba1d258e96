"""What both studies of `dti evaluate` share: bars, digests of weights, files of results."""

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dti_engine.commands.terminal import notes, say

OnProgress: TypeAlias = Callable[[str, int, int], None]

_SECONDS_BETWEEN_LINES = 30


@contextmanager
def study_progress() -> Generator[OnProgress]:
    """A bar for each thing that is done; where nobody watches, a line now and then."""
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks = {}
    said_at = -float(_SECONDS_BETWEEN_LINES)
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bars:

        def on_progress(doing: str, done: int, total: int) -> None:
            nonlocal said_at
            if notes.is_terminal:
                if doing not in tasks:
                    tasks[doing] = bars.add_task(doing, total=total)
                bars.update(tasks[doing], completed=done)
            elif done == total or time.monotonic() - said_at >= _SECONDS_BETWEEN_LINES:
                said_at = time.monotonic()
                say(f"{time.strftime('%H:%M:%S')}  {doing}: {done} of {total}")

        yield on_progress


def weights_digest(folder: Path) -> str:
    """sha256 of all weights: scores of one model must not be continued with another."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
