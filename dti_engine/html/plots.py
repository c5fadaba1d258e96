"""Plots of a page, each an <svg> element: lines over steps, threads, dots, a distribution.

Axes to draw on, and SVG of them that takes its colours from the page around it.

matplotlib writes fixed colours only. Each thing is therefore drawn in a colour that stands for a
CSS variable, and the finished text names the variable: the plot is then right in light and in dark.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from math import ceil
from statistics import median
from typing import Any, Generic, TypeVar

import matplotlib
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#0a0b0c"  # stands for the colour of the text; black itself would be left out of the SVG
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "dti",  # the same ids every time
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


_LINK = re.compile(r'<a xlink:href="([^"]*)"[^>]*>')


class Canvas:
    """One pair of axes."""

    def __init__(self, *, x_label: str, y_label: str, width: float) -> None:
        self._figure = Figure(figsize=(width, 3.6), layout="constrained")
        self._stand_ins: dict[str, str] = {}
        self.axes = self._figure.subplots()
        self.axes.set(xlabel=x_label, ylabel=y_label)
        self.axes.grid(visible=True)

    def colour(self, variable: str) -> str:
        """What stands for this CSS variable."""
        return self._stand_ins.setdefault(variable, f"#0d0e{len(self._stand_ins) + 16:02x}")

    def svg(self, titles: Mapping[str, str] | None = None) -> str:
        """An <svg> element. titles: of links that were drawn, to be shown under the pointer."""
        text = StringIO()
        self._figure.legend(loc="outside lower center", ncols=3, frameon=False)
        self._figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        for name, stand_in in self._stand_ins.items():
            svg = svg.replace(stand_in, f"var(--{name})")
        return _LINK.sub(lambda link: _titled(link[1], (titles or {}).get(link[1], "")), svg)


@contextmanager
def canvas(*, x_label: str, y_label: str, width: float = 6.4) -> Generator[Canvas]:
    """Empty axes, so many inches wide; all that is drawn within has their style."""
    with matplotlib.rc_context(_STYLE):
        yield Canvas(x_label=x_label, y_label=y_label, width=width)


def _titled(href: str, title: str) -> str:
    """The start of a link; matplotlib's own would open another window."""
    return f'<a xlink:href="{href}"><title>{escape(title)}</title>'


T = TypeVar("T")

_WIDTH = 4.6  # inches: for three beside each other


@dataclass(frozen=True, slots=True)
class Line:
    """One value per step, from step 1."""

    label: str
    values: Sequence[float]
    colour: str  # name of a CSS variable
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Group(Generic[T]):
    """Members of one kind; of several groups, later ones lie above earlier ones."""

    label: str
    colour: str  # name of a CSS variable
    members: Sequence[T]


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a plot that leads somewhere."""

    x: float
    y: float
    title: str  # shown under the pointer
    href: str  # within the page, such as "#row-3"


@dataclass(frozen=True, slots=True)
class Thread:
    """A thin line, one of many, that leads somewhere."""

    points: Sequence[tuple[float, float]]
    title: str
    href: str


def plot(lines: Sequence[Line], *, y_label: str, from_zero: bool = False) -> str:
    """All lines over the steps."""
    with canvas(x_label="step", y_label=y_label) as drawn:
        for line in lines:
            drawn.axes.plot(
                range(1, len(line.values) + 1),
                line.values,
                label=line.label,
                color=drawn.colour(line.colour),
                linestyle="--" if line.dashed else "-",
                linewidth=1.1 if line.dashed else 2.0,  # dashes may lie on a line
            )
        if from_zero:
            drawn.axes.set_ylim(bottom=0)
        return drawn.svg()


def threads(
    groups: Sequence[Group[Thread]], middle: Sequence[tuple[float, float]], *, y_label: str
) -> str:
    """All threads over the steps, the last of several groups set off; their middle is thick."""
    titles: dict[str, str] = {}
    with canvas(x_label="step", y_label=y_label, width=_WIDTH) as drawn:
        for group in groups:
            is_set_off = _is_set_off(group, groups)
            lines = LineCollection(
                [list(each.points) for each in group.members],
                colors=drawn.colour(group.colour),
                linewidths=1.3 if is_set_off else 0.8,
                alpha=0.9 if is_set_off else 0.5,
                label=group.label,
                urls=[each.href for each in group.members],
            )
            drawn.axes.add_collection(lines)
            titles |= {each.href: each.title for each in group.members}
        drawn.axes.plot(*zip(*middle, strict=True), color=INK, linewidth=2.4, label="median")
        drawn.axes.autoscale_view()
        drawn.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return drawn.svg(titles)


def scatter(groups: Sequence[Group[Dot]], *, x_label: str, y_label: str) -> str:
    """All dots, with coordinates in 0 .. 1, the last of several groups set off; both medians."""
    titles: dict[str, str] = {}
    with canvas(x_label=x_label, y_label=y_label, width=_WIDTH) as drawn:
        for group in groups:
            dots = drawn.axes.scatter(
                [dot.x for dot in group.members],
                [dot.y for dot in group.members],
                s=28,
                color=drawn.colour(group.colour),
                alpha=0.9 if _is_set_off(group, groups) else 0.65,
                linewidths=0,
                label=group.label,
            )
            dots.set_urls([dot.href for dot in group.members])
            titles |= {dot.href: dot.title for dot in group.members}
        everything = [dot for group in groups for dot in group.members]
        x, y = median(dot.x for dot in everything), median(dot.y for dot in everything)
        drawn.axes.axvline(x, color=INK, linewidth=1.0, linestyle="--", label="medians")
        drawn.axes.axhline(y, color=INK, linewidth=1.0, linestyle="--")
        drawn.axes.set_xlim(*_around([dot.x for dot in everything]))
        drawn.axes.set_ylim(*_around([dot.y for dot in everything]))
        return drawn.svg(titles)


def distribution(groups: Sequence[Group[float]], *, x_label: str, y_label: str) -> str:
    """How many values lie where: bars, those of later groups on top; and the median of all.

    The bars span 1 at least, or values that are equal but for rounding would lie far apart.
    """
    values = [value for group in groups for value in group.members]
    middle, reach = (min(values) + max(values)) / 2, max(1.0, max(values) - min(values)) / 2
    with canvas(x_label=x_label, y_label=y_label, width=_WIDTH) as drawn:
        drawn.axes.hist(
            [list(group.members) for group in groups],
            # Odd, so that the middle is within a bar.
            bins=min(40, max(8, ceil(2 * len(values) ** (1 / 3)))) | 1,
            range=(middle - reach, middle + reach),
            stacked=True,
            color=[drawn.colour(group.colour) for group in groups],
            label=[group.label for group in groups],
            rwidth=0.92,
        )
        drawn.axes.axvline(median(values), color=INK, linewidth=1.0, linestyle="--", label="median")
        drawn.axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return drawn.svg()


def _is_set_off(group: Group[T], groups: Sequence[Group[T]]) -> bool:
    return len(groups) > 1 and group is groups[-1]


def _around(scores: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends: with room, but hardly beyond 0 .. 1."""
    return max(-0.02, min(scores) - 0.08), min(1.02, max(scores) + 0.08)
