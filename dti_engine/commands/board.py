"""A tally as a table: the subjects at work, as many as fit the screen, and one line of totals."""

from collections.abc import Sequence
from math import isnan

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dti_engine.commands.tally import Row, Tally

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
