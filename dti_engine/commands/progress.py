"""Progress on stderr: live where somebody watches, a line now and then where nobody does."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dti_engine.commands.board import Board, span, totals
from dti_engine.commands.stopping import NOTE, write_note
from dti_engine.commands.tally import Ending, Tally
from dti_engine.commands.terminal import notes, say

if TYPE_CHECKING:
    from dti_engine.reports import SlotReport
    from dti_engine.slots import Occupant

_NUM_LINES = 5  # per subject where nobody watches
_MAX_NAMED = 8  # subjects; with more, such lines are of the whole run
_SECONDS_BETWEEN_LINES = 30
_PART_BETWEEN_LINES = 0.05  # of the run; both must have passed


class TrainingProgress:
    """Tells of a tally. `on_seated` and `on_step` are what `train` wants.

    While it is entered, `say` writes above the table.
    """

    def __init__(self, tally: Tally, *, is_live: bool | None = None) -> None:
        """is_live: with a table; None: if stderr is a terminal that can show one."""
        self.tally = tally
        self._is_live = notes.is_interactive if is_live is None else is_live
        self._board = Board(tally)
        # stdout is for results, and may be a pipe while stderr is a terminal.
        self._live = Live(self._board, console=notes, auto_refresh=True, redirect_stdout=False)
        self._said_at, self._said_of = tally.elapsed, 0.0

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._board.note = ""
        if self._is_live:
            self._live.stop()
            self._is_live = False
        elif self.tally.num_subjects > _MAX_NAMED:
            say(f"  {totals(self.tally)}")

    def on_seated(self, slot: int, occupant: "Occupant") -> None:
        name, steps = occupant.subject.id, occupant.config.steps
        self.tally.seat(slot, name, step=occupant.step, steps=steps)

    def on_step(self, reports: Sequence["SlotReport"]) -> None:
        self.tally.read(reports)
        if self._is_live:
            return
        if self.tally.num_subjects > _MAX_NAMED:
            self._say_totals()
            return
        for report in reports:
            self._say(report)

    def on_ended(self, subject: str, how: Ending) -> None:
        self.tally.end(subject, how)

    def on_stopping(self) -> None:
        """A signal has come. Called by its handler, so that it may not print by `say`."""
        if self._is_live:
            self._board.note = NOTE
        else:
            write_note()

    def _say(self, report: "SlotReport") -> None:
        steps = self.tally.rows[report.subject_id].steps
        if report.step % max(1, steps // _NUM_LINES) == 0:
            left = report.seconds * (steps / report.step - 1)
            say(
                f"  {report.subject_id}: step {report.step}/{steps}, "
                f"fixed loss {report.fixed_loss:.4f}, "
                f"{self.tally.rows[report.subject_id].prior_angle_deg:.1f}° from the prior, "
                f"{span(report.seconds)} elapsed, {span(left)} left"
            )

    def _say_totals(self) -> None:
        now, part = self.tally.elapsed, self.tally.fraction
        is_due = now - self._said_at >= _SECONDS_BETWEEN_LINES
        if is_due and part - self._said_of >= _PART_BETWEEN_LINES:
            self._said_at, self._said_of = now, part
            say(f"  {totals(self.tally)}")


@contextmanager
def painting_progress() -> Generator[Callable[[int, int], None]]:
    """One bar over all denoising steps; yields what `generate` wants as `on_step`."""
    with _bar("painting") as (progress, task):

        def on_step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not notes.is_terminal and done % max(1, total // _NUM_LINES) == 0:
                say(f"  painting: denoising step {done}/{total}")

        yield on_step


@contextmanager
def trial_progress(num_subjects: int) -> Generator[Callable[[int], None]]:
    """One bar over tokens that are tried out; yields what is told how many have been, in all."""
    said_at = time.monotonic()
    with _bar("trying out") as (progress, task):

        def on_tried(done: int) -> None:
            nonlocal said_at
            progress.update(task, completed=done, total=num_subjects)
            if not notes.is_terminal and time.monotonic() - said_at >= _SECONDS_BETWEEN_LINES:
                said_at = time.monotonic()
                say(f"  tried out {done} of {num_subjects} tokens")

        yield on_tried


@contextmanager
def _bar(doing: str) -> Generator[tuple[Progress, TaskID]]:
    """A bar with its count and times, where somebody watches."""
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
        yield progress, progress.add_task(doing, total=None)
