"""The demo's page: one HTML file that needs nothing beside it."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dti_engine.demo.plots import Line, plot
from dti_engine.demo.results import Results


def render(results: Results, output: Path) -> str:
    """The page; pictures are taken from the output folder and put into it."""

    def data_uri(file: str) -> str:
        encoded = base64.b64encode((output / file).read_bytes()).decode("ascii")
        return f"data:image/png;base64,{encoded}"

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        results=results,
        angle_plot=Markup(_angle_plot(results)),
        norm_plot=Markup(_norm_plot(results)),
        data_uri=data_uri,
        duration=_duration,
        score="{:.2f}".format,
        with_token=_with_token,
    )


def _angle_plot(results: Results) -> str:
    lines = [
        Line(f"{each.name}, DTI", each.curve.prior_angle_deg, f"line-{i % 4 + 1}")
        for i, each in enumerate(results.subjects)
    ]
    baseline = results.baseline
    lines.append(Line(f"{baseline.name}, TI", baseline.curve.prior_angle_deg, "line-ti"))
    return plot(lines, y_label="angle to the prior (degrees)", from_zero=True)


def _norm_plot(results: Results) -> str:
    dti, baseline = results.compared, results.baseline
    words = [results.vocabulary_norm] * dti.num_steps
    lines = [
        Line(f"{dti.name}, DTI", dti.curve.norm, "line-1"),
        Line(f"{baseline.name}, TI", baseline.curve.norm, "line-ti"),
        Line("mean of all words", words, "ink", dashed=True),
    ]
    return plot(lines, y_label="length of the vector", from_zero=True)


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _with_token(prompt: str, placeholder: str) -> Markup:
    """The prompt with its placeholder set off."""
    name = escape(placeholder)
    return Markup(escape(prompt).replace(name, Markup("<b>{}</b>").format(placeholder)))
