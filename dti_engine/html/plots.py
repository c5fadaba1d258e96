"""Plots as <svg> elements: lines over steps, many curves, dots, a histogram.

matplotlib writes fixed colours only. Everything is therefore drawing in a placeholder colour for a
CSS variable, which the finished SVG then names: so the plot follows the page's light or dark style.
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

INK = "#0a0b0c"  # stands for the text colour; matplotlib leaves black itself out of the SVG
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "dti",  # makes the ids reproducible
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
    """A pair of axes, whose SVG takes its colours from CSS variables."""

    def __init__(self, *, x_label: str, y_label: str, width: float) -> None:
        self._figure = Figure(figsize=(width, 3.6), layout="constrained")
        self._stand_ins: dict[str, str] = {}
        self.axes = self._figure.subplots()
        self.axes.set(xlabel=x_label, ylabel=y_label)
        self.axes.grid(visible=True)

    def colour(self, variable: str) -> str:
        """Return the placeholder colour of a CSS variable."""
        return self._stand_ins.setdefault(variable, f"#0d0e{len(self._stand_ins) + 16:02x}")

    def svg(self, titles: Mapping[str, str] | None = None) -> str:
        """Return the <svg> element; `titles` maps the address of a link to its tooltip."""
        text = StringIO()
        self._figure.legend(loc="outside lower center", ncols=3, frameon=False)
        self._figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        svg = text.getvalue()
        # The XML header before it has no place inside of an HTML page.
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        for name, stand_in in self._stand_ins.items():
            svg = svg.replace(stand_in, f"var(--{name})")
        return _LINK.sub(lambda link: _titled(link[1], (titles or {}).get(link[1], "")), svg)


@contextmanager
def canvas(*, x_label: str, y_label: str, width: float = 6.4) -> Generator[Canvas]:
    """Open empty axes of `width` inches, with the style of all plots."""
    with matplotlib.rc_context(_STYLE):
        yield Canvas(x_label=x_label, y_label=y_label, width=width)


def _titled(href: str, title: str) -> str:
    """Return the start tag of a link with a tooltip; matplotlib's own opens a new window."""
    return f'<a xlink:href="{href}"><title>{escape(title)}</title>'


T = TypeVar("T")

_WIDTH = 4.6  # inches, for three plots side by side


@dataclass(frozen=True, slots=True)
class Line:
    """A value per step, from step 1."""

    label: str
    values: Sequence[float]
    colour: str  # name of a CSS variable
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Group(Generic[T]):
    """Members of one kind; later groups are drawing on top of earlier ones."""

    label: str
    colour: str  # name of a CSS variable
    members: Sequence[T]


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a plot that links to a place in the page."""

    x: float
    y: float
    title: str  # the tooltip
    href: str  # within the page, such as "#row-3"


@dataclass(frozen=True, slots=True)
class Curve:
    """A thin line, one of many, that links to a place in the page."""

    points: Sequence[tuple[float, float]]
    title: str
    href: str


def plot(lines: Sequence[Line], *, y_label: str, from_zero: bool = False) -> str:
    """Plot all lines over the steps."""
    with canvas(x_label="step", y_label=y_label) as drawing:
        for line in lines:
            drawing.axes.plot(
                range(1, len(line.values) + 1),
                line.values,
                label=line.label,
                color=drawing.colour(line.colour),
                linestyle="--" if line.dashed else "-",
                linewidth=1.1 if line.dashed else 2.0,  # dashes may lie on a line
            )
        if from_zero:
            drawing.axes.set_ylim(bottom=0)
        return drawing.svg()


def curves(
    groups: Sequence[Group[Curve]], middle: Sequence[tuple[float, float]], *, y_label: str
) -> str:
    """Plot all curves over the steps, with a thick line for `middle`, their median.

    The last of several groups is emphasized.
    """
    titles: dict[str, str] = {}
    with canvas(x_label="step", y_label=y_label, width=_WIDTH) as drawing:
        for group in groups:
            is_emphasized = _is_emphasized(group, groups)
            lines = LineCollection(
                [list(each.points) for each in group.members],
                colors=drawing.colour(group.colour),
                linewidths=1.3 if is_emphasized else 0.8,
                alpha=0.9 if is_emphasized else 0.5,
                label=group.label,
                urls=[each.href for each in group.members],
            )
            drawing.axes.add_collection(lines)
            titles |= {each.href: each.title for each in group.members}
        drawing.axes.plot(*zip(*middle, strict=True), color=INK, linewidth=2.4, label="median")
        drawing.axes.autoscale_view()
        drawing.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return drawing.svg(titles)


def scatter(groups: Sequence[Group[Dot]], *, x_label: str, y_label: str) -> str:
    """Plot dots with coordinates in 0 .. 1, and both medians; the last group is emphasized."""
    titles: dict[str, str] = {}
    with canvas(x_label=x_label, y_label=y_label, width=_WIDTH) as drawing:
        for group in groups:
            dots = drawing.axes.scatter(
                [dot.x for dot in group.members],
                [dot.y for dot in group.members],
                s=28,
                color=drawing.colour(group.colour),
                alpha=0.9 if _is_emphasized(group, groups) else 0.65,
                linewidths=0,
                label=group.label,
            )
            dots.set_urls([dot.href for dot in group.members])
            titles |= {dot.href: dot.title for dot in group.members}
        everything = [dot for group in groups for dot in group.members]
        x, y = median(dot.x for dot in everything), median(dot.y for dot in everything)
        drawing.axes.axvline(x, color=INK, linewidth=1.0, linestyle="--", label="medians")
        drawing.axes.axhline(y, color=INK, linewidth=1.0, linestyle="--")
        drawing.axes.set_xlim(*_around([dot.x for dot in everything]))
        drawing.axes.set_ylim(*_around([dot.y for dot in everything]))
        return drawing.svg(titles)


def distribution(groups: Sequence[Group[float]], *, x_label: str, y_label: str) -> str:
    """Plot a stacked histogram of all groups, and the median of all values.

    The bars span at least 1, because values that differ by rounding alone must not look far apart.
    """
    values = [value for group in groups for value in group.members]
    with canvas(x_label=x_label, y_label=y_label, width=_WIDTH) as drawing:
        drawing.axes.hist(
            [list(group.members) for group in groups],
            # An odd number, so that the middle lies within a bar.
            bins=min(40, max(8, ceil(2 * len(values) ** (1 / 3)))) | 1,
            range=_bar_range(values),
            stacked=True,
            color=[drawing.colour(group.colour) for group in groups],
            label=[group.label for group in groups],
            rwidth=0.92,
        )
        drawing.axes.axvline(
            median(values), color=INK, linewidth=1.0, linestyle="--", label="median"
        )
        drawing.axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return drawing.svg()


def _bar_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a histogram: at least 1 apart, and no value lies beyond them."""
    low, high = min(values), max(values)
    middle = (low + high) / 2
    # Rounding puts `middle` plus or minus half of the range inside the extremes in every third
    # case, and the histogram would leave them out.
    return min(low, middle - 0.5), max(high, middle + 0.5)


def _is_emphasized(group: Group[T], groups: Sequence[Group[T]]) -> bool:
    return len(groups) > 1 and group is groups[-1]


def _around(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis of scores: with a margin, but hardly beyond 0 .. 1."""
    return max(-0.02, min(scores) - 0.08), min(1.02, max(scores) + 0.08)
