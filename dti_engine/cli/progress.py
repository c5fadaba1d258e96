"""Progress on stderr: live on a terminal, a plain line now and then elsewhere.

`ProgressBar` counts steps of one activity. `ItemsProgress` has a line per running item and totals
of all; `dti train` and `dti submit --wait` show the same display.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from math import degrees
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from dti_engine.cli.console import notes, say
from dti_engine.cli.resume import NOTE, write_note

if TYPE_CHECKING:
    from dti_engine.training.metrics import StepMetrics

SubjectEnd: TypeAlias = Literal["finished", "failed", "skipped"]

_NUM_LINES = 5  # plain lines of one activity, or of one subject
_MAX_NAMED = 8  # subjects that have plain lines of their own; more have lines of totals
_INTERVAL_S = 30.0  # between two plain lines of totals
_FRACTION = 0.05  # of all items between two such lines; both must have passed
_PACE_PERIOD_S = 1800.0  # over which the pace is averaged
_BAR, _NAME = 12, 24  # characters
_NUM_OTHER_LINES = 5  # "and N more", totals in two lines, a note, and the cursor's


class ProgressBar:
    """A bar on a terminal; elsewhere a line for each fifth that is done. Thread-safe."""

    def __init__(self, activity: str, total: int | None = None) -> None:
        """Name the activity, such as "uploading"; a total of None is set by `update`."""
        self._activity, self._lock, self._num_said = activity, threading.Lock(), 0
        self._progress = Progress(
            TextColumn(f"[cyan]{escape(activity)}"),
            BarColumn(18),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=notes,
            disable=not notes.is_terminal,
            redirect_stdout=False,  # stdout is for results, and may be a pipe
        )
        self._task = self._progress.add_task(activity, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int | None = None) -> None:
        """Set how many steps are done, and of how many."""
        self._progress.update(self._task, completed=done, total=total)
        self._say()

    def advance(self) -> None:
        """Count one more step as done."""
        self._progress.advance(self._task)
        self._say()

    def _say(self) -> None:
        if notes.is_terminal:
            return
        task = self._progress.tasks[0]
        with self._lock:
            fifth = int(_NUM_LINES * task.completed / task.total) if task.total else 0
            if fifth > self._num_said:
                self._num_said = fifth
                say(f"  {self._activity}: {task.completed:.0f}/{task.total:.0f}")


class ItemsProgress:
    """Progress of many items: a line per running item, and totals of all.

    While it is entered on a terminal, `say` writes above the live lines.
    """

    def __init__(
        self,
        num_items: int,
        *,
        unit: str,
        is_live: bool | None = None,
        get_time: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show items of a unit such as "subjects"; `is_live` None: if stderr is a terminal."""
        self.note = ""
        """A warning under the lines, while they are live."""
        self.is_live = notes.is_interactive if is_live is None else is_live
        self._unit, self._counts, self._num_ended = unit, "", 0
        self._running: dict[Hashable, TaskID] = {}
        self._items = Progress(*_item_columns(), console=notes, get_time=get_time)
        self._totals = Progress(
            *_total_columns(unit),
            console=notes,
            get_time=get_time,
            speed_estimate_period=_PACE_PERIOD_S,
        )
        self._total = self._totals.add_task("", total=num_items)
        self._live = Live(self, console=notes, auto_refresh=True, redirect_stdout=False)
        self._get_time = get_time
        self._said_at, self._said_fraction = get_time(), 0.0

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.note = ""
        if self.is_live:
            self._live.stop()
            # Lines that follow, such as the totals, are plain ones.
            self.is_live = False

    def update(
        self, key: Hashable, name: str, step: int, steps: int | None, figures: str = ""
    ) -> None:
        """Show a running item: its name, its steps, and figures such as its loss.

        Call `update_total` after all items of one time, or the pace is wrong.
        """
        if key not in self._running:
            self._running[key] = self._items.add_task("", name=name, figures=figures)
        self._items.update(
            self._running[key], completed=step, total=steps, name=name, figures=figures
        )

    def end(self, key: Hashable) -> None:
        """Remove an item that runs no more."""
        if key in self._running:
            self._items.remove_task(self._running.pop(key))

    def running(self) -> Sequence[Hashable]:
        """Return the keys of running items, in order of their start."""
        return list(self._running)

    def set_totals(self, counts: str, *, num_ended: int, num_items: int) -> None:
        """Set how many items have ended, and the text that counts them by state."""
        self._counts, self._num_ended = counts, num_ended
        self._totals.update(self._total, total=num_items)
        self.update_total()

    @property
    def fraction(self) -> float:
        """Return the finished share of all items, between 0 and 1; running items count in part."""
        task = self._totals.tasks[0]
        return task.completed / task.total if task.total else 1.0

    def totals(self) -> str:
        """Return counts, pace and times as one line of text."""
        task = self._totals.tasks[0]
        left = task.time_remaining if self.fraction else None
        return (
            f"{self._counts}, {self.fraction:.0%}, {_pace(task, self._unit)}, "
            f"{span(task.elapsed)} elapsed, {span(left)} left"
        )

    def say_totals(self, *, is_last: bool = False) -> None:
        """Say the totals where no live lines show them, if enough was done since the last time."""
        if self.is_live:
            return
        now, fraction = self._get_time(), self.fraction
        is_due = now - self._said_at >= _INTERVAL_S and fraction - self._said_fraction >= _FRACTION
        if is_due or is_last:
            self._said_at, self._said_fraction = now, fraction
            say(f"  {self.totals()}")

    def update_total(self) -> None:
        """Update the total by the steps of running items, of which each counts in part."""
        parts = sum(task.percentage / 100 for task in self._items.tasks if task.total)
        self._totals.update(self._total, completed=self._num_ended + parts)

    def __rich__(self) -> RenderableType:
        # Lines below the end of the screen would break the redrawing of those above.
        room = max(1, notes.size.height - _NUM_OTHER_LINES)
        tasks = self._items.tasks
        lines: list[RenderableType] = [self._items.make_tasks_table(tasks[:room])] if tasks else []
        if len(tasks) > room:
            lines.append(Text(f"and {len(tasks) - room} more running", style="dim"))
        lines.append(Text(self._counts, no_wrap=True, overflow="ellipsis"))
        lines.append(self._totals.make_tasks_table(self._totals.tasks))
        if self.note:
            lines.append(Text(self.note, style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)


class TrainingProgress:
    """Progress of a training run, by the events of its loop."""

    def __init__(
        self,
        num_subjects: int,
        *,
        steps: int,
        is_live: bool | None = None,
        get_time: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show a run; `steps` is for subjects whose start is not reported."""
        self._display = ItemsProgress(
            num_subjects, unit="subjects", is_live=is_live, get_time=get_time
        )
        self._num_subjects, self._default_steps = num_subjects, steps
        self._steps = dict[str, int]()  # of each running subject
        self._ended = Counter[SubjectEnd]()
        self._update_totals()

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._display.__exit__(*exception)
        if not notes.is_interactive and self._num_subjects > _MAX_NAMED:
            self._display.say_totals(is_last=True)

    def on_started(self, slot: int, subject: str, *, step: int, steps: int) -> None:
        """Show a subject that has entered a slot, possibly from a checkpoint."""
        self._steps[subject] = steps
        self._display.update(subject, subject, step, steps)
        self._display.update_total()

    def on_step(self, reports: Sequence["StepMetrics"]) -> None:
        """Show the steps of running subjects."""
        for report in reports:
            steps = self._steps.setdefault(report.subject_id, self._default_steps)
            angle = degrees(report.prior_angle_rad)
            figures = f"fixed loss {report.fixed_loss:.4f}, {angle:.1f}° from the prior"
            self._display.update(report.subject_id, report.subject_id, report.step, steps, figures)
            if not self._display.is_live and self._num_subjects <= _MAX_NAMED:
                _say_step(report, steps, figures)
        self._display.update_total()
        if self._num_subjects > _MAX_NAMED:
            self._display.say_totals()

    def on_ended(self, subject: str, end: SubjectEnd) -> None:
        """Count a subject that has ended."""
        self._steps.pop(subject, None)
        self._display.end(subject)
        self._ended[end] += 1
        self._update_totals()

    def on_stopping(self) -> None:
        """Tell that a signal has come. A signal handler calls this, so it must not print."""
        if self._display.is_live:
            self._display.note = NOTE
        else:
            write_note()

    def _update_totals(self) -> None:
        ended = self._ended
        counts = ", ".join(f"{ended[end]} {end}" for end in ("finished", "failed", "skipped"))
        unfinished = max(0, self._num_subjects - ended.total())
        self._display.set_totals(
            f"{counts}, {unfinished} unfinished of {self._num_subjects}",
            # Skipped subjects take no time, so they would falsify the pace.
            num_ended=ended["finished"] + ended["failed"],
            num_items=max(self._num_subjects, ended.total()) - ended["skipped"],
        )


def span(seconds: float | None) -> str:
    """Return a duration as `0:45:12`, or `-` if it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def shorten(name: str, width: int) -> str:
    """Return a name without its middle if it is too long: many names differ in their ends only."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _say_step(report: "StepMetrics", steps: int, figures: str) -> None:
    if report.step % max(1, steps // _NUM_LINES) == 0:
        left = report.elapsed_s * (steps / report.step - 1)
        say(
            f"  {report.subject_id}: step {report.step}/{steps}, {figures}, "
            f"{span(report.elapsed_s)} elapsed, {span(left)} left"
        )


class _NameColumn(ProgressColumn):
    """The name of an item, which is no markup."""

    def render(self, task: Task) -> Text:
        return Text(shorten(task.fields["name"], _NAME), style="cyan", no_wrap=True)


class _FiguresColumn(ProgressColumn):
    """Figures of a running item, such as its loss."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


class _PaceColumn(ProgressColumn):
    """Items per hour."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_pace(task, self._unit), no_wrap=True)


def _pace(task: Task, unit: str) -> str:
    per_hour = None if task.speed is None else 3600 * task.speed
    shown = "-" if per_hour is None else f"{per_hour:.0f}" if per_hour >= 10 else f"{per_hour:.1f}"
    return f"{shown} {unit}/h"


def _item_columns() -> Sequence[ProgressColumn]:
    return _NameColumn(), BarColumn(_BAR), MofNCompleteColumn(), _FiguresColumn()


def _total_columns(unit: str) -> Sequence[ProgressColumn]:
    return (
        BarColumn(2 * _BAR),
        TaskProgressColumn(),
        _PaceColumn(unit),
        TimeElapsedColumn(),
        TextColumn("elapsed", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
        TextColumn("left", table_column=Column(no_wrap=True)),
    )
