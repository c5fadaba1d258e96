"""The demo's page: one HTML file that needs nothing beside it.

One image of the whole demo: a row for each subject, two photos and then its generated images.
"""

from pathlib import Path

from markupsafe import Markup
from PIL import Image

from dti_engine.demo.results import Results
from dti_engine.html.page import data_uri, duration, template, with_token
from dti_engine.html.plots import Line, plot


def render(results: Results, output: Path) -> str:
    """The page; images are taken from the output folder and put into it."""

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


_SIDE, _GAP, _WIDE_GAP = 96, 6, 20  # pixels


def sheet(results: Results, output: Path) -> Image.Image:
    """The first and the last photo of each subject, and all that was generated of it."""
    rows = [
        [
            *each.references[:: len(each.references) - 1],
            *(one.file for one in each.generated_images),
        ]
        for each in results.subjects
    ]
    step = _SIDE + _GAP
    lefts = [column * step + (_WIDE_GAP - _GAP) * (column > 1) for column in range(len(rows[0]))]
    size = lefts[-1] + _SIDE, len(rows) * step - _GAP
    shown = Image.new("RGB", size, "white")
    for number, row in enumerate(rows):
        for left, file in zip(lefts, row, strict=True):
            with Image.open(output / file) as image:
                tile = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            shown.paste(tile, (left, number * step))
    return shown
