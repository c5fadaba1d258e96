"""Progress on stderr: live where somebody watches, a line now and then where nobody does.

Where a training of many subjects stands: who is at work, how many have ended, how long yet.

A tally as a table: the subjects at work, as many as fit the screen, and one line of totals.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import degrees, isnan, nan
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderResult
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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dti_engine.cli.console import notes, say
from dti_engine.cli.resume import NOTE, write_note

if TYPE_CHECKING:
    from dti_engine.training.metrics import StepMetrics

PendingDelivery: TypeAlias = Literal["finished", "failed", "skipped"]


@dataclass(slots=True)
class Row:
    """A subject at work."""

    slot: int
    subject: str
    step: int  # steps done
    steps: int  # that it is to have
    fixed_loss: float = nan  # nan: not known yet
    prior_angle_deg: float = nan


class Tally:
    """Counts of a run of `num_subjects` in `num_slots`; times are in seconds."""

    def __init__(
        self,
        num_subjects: int,
        *,
        num_slots: int,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """steps: of subjects that do not say their own."""
        self.num_subjects, self.num_slots = num_subjects, num_slots
        self.rows: dict[str, Row] = {}  # by subject
        self.ended: Counter[PendingDelivery] = Counter()
        self._steps, self._clock = steps, clock
        self._began = clock()
        self._first_read: float | None = None
        self._subjects_done = 0.0  # since then, in parts of a subject
        self._steps_done = 0  # since then, of the batch

    def seat(self, slot: int, subject: str, *, step: int, steps: int) -> None:
        self.rows[subject] = Row(slot, subject, step, steps)

    def read(self, reports: Sequence["StepMetrics"]) -> None:
        """New reports, of some steps of each subject at work."""
        steps: Counter[str] = Counter()
        for report in reports:
            # Whoever has no slots to tell of seats nobody.
            if report.subject_id not in self.rows:
                self.seat(len(self.rows), report.subject_id, step=0, steps=self._steps)
            row = self.rows[report.subject_id]
            row.step, row.fixed_loss = report.step, report.fixed_loss
            row.prior_angle_deg = degrees(report.prior_angle_rad)
            steps[report.subject_id] += 1
        if self._first_read is None:
            # The first steps are slower than others, and do not count in what is to be expected.
            self._first_read = self._clock()
            return
        self._steps_done += max(steps.values(), default=0)
        self._subjects_done += sum(n / self.rows[name].steps for name, n in steps.items())

    def end(self, subject: str, how: PendingDelivery) -> None:
        self.rows.pop(subject, None)
        self.ended[how] += 1

    @property
    def num_unfinished(self) -> int:
        """At work or waiting."""
        return max(0, self.num_subjects - self.ended.total())

    @property
    def fraction(self) -> float:
        """Of the run, in 0 .. 1."""
        parts = sum(row.step / row.steps for row in list(self.rows.values()))
        return min(1.0, (self.ended.total() + parts) / max(1, self.num_subjects))

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def subjects_per_hour(self) -> float | None:
        """Parts of subjects count; None: not known yet."""
        if self._first_read is None or not self._subjects_done:
            return None
        return 3600 * self._subjects_done / (self._clock() - self._first_read)

    @property
    def left(self) -> float | None:
        """Until the last subject ends, at the pace so far; None: not known yet."""
        if self._first_read is None or not self._steps_done:
            return None
        return self._steps_left() * (self._clock() - self._first_read) / self._steps_done

    def _steps_left(self) -> int:
        """Of the batch. Whoever waits takes the slot that falls free first."""
        ends = sorted(row.steps - row.step for row in list(self.rows.values()))
        ends = [0] * (self.num_slots - len(ends)) + ends
        num_waiting = max(0, self.num_unfinished - len(self.rows))
        rounds, rest = divmod(num_waiting, len(ends))
        last = [end + self._steps for end in ends[:rest]]
        return rounds * self._steps + max(ends[-1:] + last)


_BAR, _NAME = 12, 12  # characters; names may have more, if there is room
_FIGURES = ("fixed loss", "from prior")
_NUM_OTHER_LINES = 5  # header, what does not fit, totals in two lines, and the cursor's
_UNKNOWN = "-"


class Board:
    """Renders a tally as it is then."""

    def __init__(self, tally: Tally) -> None:
        self.note = ""  # said under all else
        self._tally = tally

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = sorted(list(self._tally.rows.values()), key=lambda row: row.slot)
        room = max(1, console.size.height - _NUM_OTHER_LINES - bool(self.note))
        if rows:
            yield _table(rows[:room], options.max_width)
        if len(rows) > room:
            yield Text(f"and {len(rows) - room} more at work", style="dim")
        yield _totals(self._tally, options.max_width)
        if self.note:
            yield Text(self.note, style="yellow", no_wrap=True, overflow="ellipsis")


def totals(tally: Tally) -> str:
    """Counts, pace and times, as one line of text."""
    return f"{_counts(tally)}, {tally.fraction:.0%}, {_pace(tally)}"


def span(seconds: float | None) -> str:
    """`0:45:12`, or `-` if not known."""
    if seconds is None:
        return _UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _table(rows: Sequence[Row], width: int) -> Table:
    # As wide at the first step as at the last, so that nothing moves but bars and figures.
    steps = [f"{row.step:>{len(str(row.steps))}}/{row.steps}" for row in rows]
    others = sum(2 + each for each in (len("slot"), max(map(len, steps)), *map(len, _FIGURES)))
    has_bars = width - others - _BAR - 2 >= _NAME
    # By hand, since the table would rather do without figures than without the end of a name.
    room = max(1, width - others - has_bars * (_BAR + 2))
    name = min(room, max(_NAME, *(len(row.subject) for row in rows)))

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("slot", justify="right")
    table.add_column("subject", style="cyan", width=name, no_wrap=True)
    if has_bars:
        table.add_column("", width=_BAR)
    for title in ("step", *_FIGURES):
        table.add_column(title, justify="right", no_wrap=True)
    for row, step in zip(rows, steps, strict=True):
        table.add_row(
            str(row.slot),
            Text(_cut(row.subject, name)),
            *([ProgressBar(row.steps, row.step, width=_BAR)] if has_bars else []),
            step,
            _UNKNOWN if isnan(row.fixed_loss) else f"{row.fixed_loss:.4f}",
            _UNKNOWN if isnan(row.prior_angle_deg) else f"{row.prior_angle_deg:.1f}°",
        )
    return table


def _cut(name: str, width: int) -> str:
    """Without its middle if it is too long: names of many subjects mostly differ in their ends."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _totals(tally: Tally, width: int) -> Table | Group:
    """In one line if there is room, else in two, with a bar if there is room."""
    counts, pace = Text(_counts(tally)), Text(f"{tally.fraction:4.0%}  {_pace(tally)}")
    for text in (counts, pace):
        text.no_wrap, text.overflow = True, "ellipsis"
    line = Table.grid(padding=(0, 2))
    bar = min(2 * _BAR, width - len(pace) - 2)
    if len(counts) + _BAR + len(pace) + 4 <= width:
        line.add_row(counts, ProgressBar(1.0, tally.fraction, width=_BAR), pace)
        return line
    line.add_row(*([ProgressBar(1.0, tally.fraction, width=bar)] if bar >= 4 else []), pace)
    return Group(counts, line)


def _counts(tally: Tally) -> str:
    ended = tally.ended
    return (
        f"{ended['finished']} finished, {ended['failed']} failed, {ended['skipped']} skipped, "
        f"{tally.num_unfinished} unfinished of {tally.num_subjects}"
    )


def _pace(tally: Tally) -> str:
    pace = tally.subjects_per_hour
    per_hour = _UNKNOWN if pace is None else f"{pace:.0f}" if pace >= 10 else f"{pace:.1f}"
    return f"{per_hour} subjects/h, {span(tally.elapsed)} elapsed, {span(tally.left)} left"


if TYPE_CHECKING:
    from dti_engine.training.metrics import StepMetrics
    from dti_engine.training.slot import TrainingSlot

_NUM_LINES = 5  # per subject where nobody watches
_MAX_NAMED = 8  # subjects; with more, such lines are of the whole run
_SECONDS_BETWEEN_LINES = 30
_PART_BETWEEN_LINES = 0.05  # of the run; both must have passed


class TrainingProgress:
    """Tells of a tally. `on_added` and `on_step` are what `train` wants.

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

    def on_added(self, slot: int, occupant: "TrainingSlot") -> None:
        name, steps = occupant.subject.id, occupant.config.steps
        self.tally.seat(slot, name, step=occupant.step, steps=steps)

    def on_step(self, reports: Sequence["StepMetrics"]) -> None:
        self.tally.read(reports)
        if self._is_live:
            return
        if self.tally.num_subjects > _MAX_NAMED:
            self._say_totals()
            return
        for report in reports:
            self._say(report)

    def on_ended(self, subject: str, how: PendingDelivery) -> None:
        self.tally.end(subject, how)

    def on_stopping(self) -> None:
        """A signal has come. Called by its handler, so that it may not print by `say`."""
        if self._is_live:
            self._board.note = NOTE
        else:
            write_note()

    def _say(self, report: "StepMetrics") -> None:
        steps = self.tally.rows[report.subject_id].steps
        if report.step % max(1, steps // _NUM_LINES) == 0:
            left = report.elapsed_s * (steps / report.step - 1)
            say(
                f"  {report.subject_id}: step {report.step}/{steps}, "
                f"fixed loss {report.fixed_loss:.4f}, "
                f"{self.tally.rows[report.subject_id].prior_angle_deg:.1f}° from the prior, "
                f"{span(report.elapsed_s)} elapsed, {span(left)} left"
            )

    def _say_totals(self) -> None:
        now, part = self.tally.elapsed, self.tally.fraction
        is_due = now - self._said_at >= _SECONDS_BETWEEN_LINES
        if is_due and part - self._said_of >= _PART_BETWEEN_LINES:
            self._said_at, self._said_of = now, part
            say(f"  {totals(self.tally)}")


@contextmanager
def generation_progress() -> Generator[Callable[[int, int], None]]:
    """One bar over all denoising steps; yields what `generate` wants as `on_step`."""
    with _bar("generation") as (progress, task):

        def on_step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not notes.is_terminal and done % max(1, total // _NUM_LINES) == 0:
                say(f"  generating: denoising step {done}/{total}")

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
