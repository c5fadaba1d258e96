"""A job's tally as a table: the items at work, as many as fit the screen, and its totals.

Where a job stands: how many items have ended, who is at work, how long yet.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dti_engine.cli.progress import span
from services.cli.words import words
from services.client.schemas import Counts, Job, Progress


class JobTally:
    """What was last heard of a job; times are in seconds, since it was first heard of."""

    def __init__(self, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.job = job
        self.rows = dict[int, Progress]()  # at work, by index
        self.names = dict[int, str]()  # as far as they are known
        self._clock = clock
        self._began = clock()
        self._first: tuple[float, float] | None = None  # when work was first seen, and how much

    @property
    def counts(self) -> Counts:
        return self.job.counts

    def stand(self, job: Job) -> None:
        self.job = job
        self._look()

    def advance(self, progress: Mapping[int, Progress]) -> None:
        """Those at work that have gone on."""
        self.rows.update(progress)
        self._look()

    def end(self, index: int) -> None:
        self.rows.pop(index, None)

    def name(self, index: int) -> str:
        return self.names.get(index, f"item {index}")

    @property
    def done(self) -> float:
        """In items; those at work count in part."""
        parts = sum(min(1.0, row.step / row.steps) for row in self.rows.values() if row.steps)
        return min(self.job.count, self.counts.ended + parts)

    @property
    def fraction(self) -> float:
        """Of the job, in 0 .. 1."""
        return self.done / max(1, self.job.count)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def per_hour(self) -> float | None:
        """Items, parts of them included; None: not known yet."""
        if self._first is None:
            return None
        since, done = self._first
        seconds, gained = self._clock() - since, self.done - done
        return 3600 * gained / seconds if seconds > 0 and gained > 0 else None

    @property
    def left(self) -> float | None:
        """Until the last item ends, at the pace so far; None: not known yet."""
        pace = self.per_hour
        return None if pace is None else 3600 * (self.job.count - self.done) / pace

    def _look(self) -> None:
        # What was done before somebody looked says nothing of the pace.
        if self._first is None and (self.rows or self.counts.ended):
            self._first = self._clock(), self.done


_BAR, _NAME = 12, 12  # characters; names may have more, if there is room
_LOSS, _PHASE = 6, 8
_NUM_OTHER_LINES = 5  # header, what does not fit, totals in two lines, and the cursor's
_UNKNOWN = "-"
_ALWAYS = ("succeeded", "failed", "running", "queued")  # others only if there are any


class Board:
    """Renders a tally as it is then."""

    def __init__(self, tally: JobTally) -> None:
        self.note = ""  # said under all else
        self._tally = tally

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = sorted(self._tally.rows)
        room = max(1, console.size.height - _NUM_OTHER_LINES - bool(self.note))
        if rows:
            yield _table(self._tally, rows[:room], options.max_width)
        if len(rows) > room:
            yield Text(f"and {len(rows) - room} more at work", style="dim")
        yield _totals(self._tally, options.max_width)
        if self.note:
            yield Text(self.note, style="yellow", no_wrap=True, overflow="ellipsis")


def totals(tally: JobTally) -> str:
    """Counts, pace and times, as one line of text."""
    return f"{_counts(tally)}, {tally.fraction:.0%}, {_pace(tally)}"


def _counts(tally: JobTally) -> str:
    """How many items are in each state."""
    found = dict(tally.counts.by_name())
    names = (*_ALWAYS, *(name for name, n in found.items() if n and name not in _ALWAYS))
    said = [f"{found[name]} {name}" for name in names]
    return f"{', '.join(said)} of {tally.job.count}"


def _table(tally: JobTally, rows: Sequence[int], width: int) -> Table:
    names = [tally.name(index) for index in rows]
    steps = [_steps(tally, index) for index in rows]
    # As wide at the first step as at the last, so that nothing moves but bars and figures.
    others = 2 + max(map(len, steps)) + 2 + _LOSS + 2 + _PHASE
    has_bars = width - others - _BAR - 2 >= _NAME
    room = max(1, width - others - has_bars * (_BAR + 2))
    name_width = min(room, max(_NAME, *map(len, names)))

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    thing = words(tally.job.kind).thing
    table.add_column(thing, style="cyan", width=name_width, no_wrap=True)
    if has_bars:
        table.add_column("", width=_BAR)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", width=_LOSS, no_wrap=True)
    table.add_column("phase", width=_PHASE, no_wrap=True)
    for index, name, step in zip(rows, names, steps, strict=True):
        row = tally.rows[index]
        bar = ProgressBar(row.steps or 1, row.step, width=_BAR)
        table.add_row(
            Text(_cut(name, name_width)),
            *([bar] if has_bars else []),
            step,
            _UNKNOWN if row.loss is None else f"{row.loss:.4f}",
            row.phase or _UNKNOWN,
        )
    return table


def _steps(tally: JobTally, index: int) -> str:
    row = tally.rows[index]
    return f"{row.step:>{len(str(row.steps))}}/{row.steps}" if row.steps else _UNKNOWN


def _cut(name: str, width: int) -> str:
    """Without its middle if it is too long: names of many subjects mostly differ in their ends."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _totals(tally: JobTally, width: int) -> Table | Group:
    """In one line if there is room, else in two, with a bar if there is room."""
    said, pace = Text(_counts(tally)), Text(f"{tally.fraction:4.0%}  {_pace(tally)}")
    for text in (said, pace):
        text.no_wrap, text.overflow = True, "ellipsis"
    line = Table.grid(padding=(0, 2))
    bar = min(2 * _BAR, width - len(pace) - 2)
    if len(said) + _BAR + len(pace) + 4 <= width:
        line.add_row(said, ProgressBar(1.0, tally.fraction, width=_BAR), pace)
        return line
    line.add_row(*([ProgressBar(1.0, tally.fraction, width=bar)] if bar >= 4 else []), pace)
    return Group(said, line)


def _pace(tally: JobTally) -> str:
    pace = tally.per_hour
    per_hour = _UNKNOWN if pace is None else f"{pace:.0f}" if pace >= 10 else f"{pace:.1f}"
    things = f"{words(tally.job.kind).thing}s"
    return f"{per_hour} {things}/h, {span(tally.elapsed)} elapsed, {span(tally.left)} left"
