"""Axes to draw on, and SVG of them that takes its colours from the page around it.

matplotlib writes fixed colours only. Each thing is therefore drawn in a colour that stands for a
CSS variable, and the finished text names the variable: the plot is then right in light and in dark.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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
