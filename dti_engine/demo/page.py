"""The demo's page: one HTML file that needs nothing beside it."""

from pathlib import Path

from markupsafe import Markup

from dti_engine.demo.results import Results
from dti_engine.pages.pictures import data_uri
from dti_engine.pages.plots import Line, plot
from dti_engine.pages.templates import duration, template, with_token


def render(results: Results, output: Path) -> str:
    """The page; pictures are taken from the output folder and put into it."""

    def png_uri(file: str) -> str:
        return data_uri((output / file).read_bytes(), "image/png")

    return template(Path(__file__).parent).render(
        results=results,
        angle_plot=Markup(_angle_plot(results)),
        norm_plot=Markup(_norm_plot(results)),
        data_uri=png_uri,
        duration=duration,
        score="{:.2f}".format,
        with_token=with_token,
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
