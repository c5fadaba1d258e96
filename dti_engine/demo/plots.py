"""Lines over training steps, as SVG that takes its colours from the page around it.

matplotlib writes fixed colours only. Each line is therefore drawn in a colour that stands for a CSS
variable, and the finished text names the variable: the plot is then right in light and in dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_INK = "#0a0b0c"  # stands for the colour of the text; black itself would be left out of the SVG
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "dti",  # the same ids every time
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One value per step, from step 1."""

    label: str
    values: Sequence[float]
    colour: str  # name of a CSS variable
    dashed: bool = False


def plot(lines: Sequence[Line], *, y_label: str, from_zero: bool = False) -> str:
    """An <svg> element with all lines over the steps."""
    stand_ins = {line.colour: f"#0d0e{number:02x}" for number, line in enumerate(lines, start=16)}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            axes.plot(
                range(1, len(line.values) + 1),
                line.values,
                label=line.label,
                color=stand_ins[line.colour],
                linestyle="--" if line.dashed else "-",
                linewidth=1.1 if line.dashed else 2.0,  # dashes may lie on a line
            )
        axes.set(xlabel="step", ylabel=y_label)
        axes.grid(visible=True)
        if from_zero:
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    for name, stand_in in stand_ins.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg
