"""A job's tally as a table: the items at work, as many as fit the screen, and its totals."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dti_engine.commands.board import span
from services.commands.tally import JobTally
from services.commands.words import words

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
