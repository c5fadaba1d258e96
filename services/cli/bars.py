"""A bar over things of which there may be thousands; a line now and then where nobody watches."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dti_engine.cli.console import notes, say

_SECONDS_BETWEEN_LINES = 30


@contextmanager
def counting(doing: str, total: int) -> Generator[Callable[[], None]]:
    """Yields what is to be called after each of them, in any thread."""
    said_at = time.monotonic()
    columns = (
        TextColumn(f"[cyan]{doing}"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=notes, disable=not notes.is_terminal, redirect_stdout=False
    ) as progress:
        task = progress.add_task(doing, total=total)

        def advance() -> None:
            nonlocal said_at
            progress.advance(task)
            if not notes.is_terminal and time.monotonic() - said_at >= _SECONDS_BETWEEN_LINES:
                said_at = time.monotonic()
                say(f"  {doing}: {progress.tasks[0].completed:.0f} of {total}")

        yield advance
