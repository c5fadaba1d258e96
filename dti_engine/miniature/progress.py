"""Progress of the recipe: a bar for each stage on a terminal, log lines elsewhere."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Figures = Mapping[str, float]
Report = Callable[[str, int, int, Figures], None]  # name of a stage, steps done, steps in total

_SECONDS_PER_LINE = 30.0
_log = logging.getLogger(__name__)


class Display:
    """Shows progress; `report` is the callback of the recipe's stages."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("[cyan]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._watched = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def report(self, stage: str, done: int, total: int, figures: Figures) -> None:
        """Show the progress of a stage; figures are of its last step."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._watched:
            self._show(stage, done, total, shown)
        else:
            self._lines.setdefault(stage, _Lines(stage, done)).write(done, total, shown)

    def _show(self, stage: str, done: int, total: int, figures: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures="")
        self._bars.update(self._tasks[stage], completed=done, total=total, figures=figures)


class _Lines:
    """The log lines of a stage: its first step, its last, and some in between."""

    def __init__(self, stage: str, done: int) -> None:
        self._stage = stage
        self._first = done
        self._began = time.monotonic()
        self._due = self._began

    def write(self, done: int, total: int, figures: str) -> None:
        now = time.monotonic()
        if now < self._due and done < total:
            return
        self._due = now + _SECONDS_PER_LINE
        left = self._seconds_left(now, done, total)
        _log.info("%s %d/%d, %s left  %s", self._stage, done, total, left, figures)

    def _seconds_left(self, now: float, done: int, total: int) -> str:
        """Return the time left at the pace of this run, which may have resumed at a later step."""
        if done == self._first:
            return "0:00:00" if done == total else "?"
        seconds = (now - self._began) / (done - self._first) * (total - done)
        return str(timedelta(seconds=round(seconds)))
