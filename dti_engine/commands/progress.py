"""Progress on stderr: bars where somebody watches, a line now and then where nobody does."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from math import degrees
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dti_engine.commands.terminal import notes, say

if TYPE_CHECKING:
    from dti_engine.reports import SlotReport

_NUM_LOSSES = 20  # shown as one mean: a single step's loss mostly tells its noise level
_NUM_BARS = 8  # with more subjects than that, finished ones make room
_NUM_LINES = 5  # per subject where nobody watches


class TrainingProgress:
    """Per subject: steps, loss, angle to the prior, time left. `on_step` is what `train` wants."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._tasks: dict[str, TaskID] = {}
        self._losses: dict[str, deque[float]] = {}
        self._progress = Progress(
            TextColumn("[cyan]{task.description}"),
            BarColumn(bar_width=18),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[angle]:4.1f}° from the prior"),
            TimeRemainingColumn(),
            console=notes,
            disable=not notes.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def on_step(self, reports: Sequence["SlotReport"]) -> None:
        for report in reports:
            self._show(report)

    def _show(self, report: "SlotReport") -> None:
        name = report.subject_id
        losses = self._losses.setdefault(name, deque(maxlen=_NUM_LOSSES))
        losses.append(report.loss)
        loss, angle = fmean(losses), degrees(report.prior_angle_rad)
        if notes.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(
                    name, total=self._steps, loss=loss, angle=angle
                )
            is_crowding = report.step == self._steps and len(self._tasks) > _NUM_BARS
            self._progress.update(
                self._tasks[name],
                completed=report.step,
                visible=not is_crowding,
                loss=loss,
                angle=angle,
            )
        elif report.step % max(1, self._steps // _NUM_LINES) == 0:
            left = report.seconds * (self._steps / report.step - 1)
            say(
                f"  {name}: step {report.step}/{self._steps}, loss {loss:.4f}, "
                f"{angle:.1f}° from the prior, {report.seconds:.0f} s, {left:.0f} s left"
            )


@contextmanager
def painting_progress() -> Generator[Callable[[int, int], None]]:
    """One bar over all denoising steps; yields what `generate` wants as `on_step`."""
    columns = (
        TextColumn("[cyan]painting"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as progress:
        task = progress.add_task("painting", total=None)

        def on_step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not notes.is_terminal and done % max(1, total // _NUM_LINES) == 0:
                say(f"  painting: denoising step {done}/{total}")

        yield on_step
