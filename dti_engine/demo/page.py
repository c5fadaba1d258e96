"""The output of a demo: its self-contained page, the contact sheet, and results.json."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from dti_engine.demo.results import DemoResults, LocalDemoResults
from dti_engine.files import atomic_write
from dti_engine.html.page import data_uri, duration, template, with_token
from dti_engine.html.plots import Line, plot
from dti_engine.images.contact_sheet import labelled_grid
from dti_engine.miniature.world.subjects import demo_prompts

_CELL_PX, _LABEL_PX = 96, 76


def render(results: DemoResults, output: Path, templates: Path, **variables: Any) -> str:
    """Return the page of a folder of templates; images are taken from the output folder."""

    def png_uri(file: str) -> str:
        return data_uri((output / file).read_bytes(), "image/png")

    return template(templates, Path(__file__).parent).render(
        results=results,
        subjects=results.subjects,
        data_uri=png_uri,
        duration=duration,
        score="{:.2f}".format,
        with_token=with_token,
        **variables,
    )


def render_local(results: LocalDemoResults, output: Path) -> str:
    """Return the page of a run on this machine."""
    return render(
        results,
        output,
        Path(__file__).parent,
        angle_plot=Markup(_angle_plot(results)),
        norm_plot=Markup(_norm_plot(results)),
    )


def save_results(results: DemoResults, output: Path) -> None:
    """Write results.json. Raises: OutputError if it cannot be written."""
    atomic_write(output / "results.json", json.dumps(results.document(), indent=2).encode())


def contact_sheet(results: DemoResults, output: Path) -> Image.Image:
    """Return a row for each subject: its first and last reference, and all images in prompts."""

    def read(file: str) -> Image.Image:
        with Image.open(output / file) as image:
            return image.convert("RGB")

    titles = [prompt.template.replace("{}", "*") for prompt in demo_prompts()]
    rows: list[tuple[str, list[Image.Image]]] = []
    for subject in results.subjects:
        files = [subject.references[0], subject.references[-1]]
        files += [image.file for image in subject.images]
        rows.append((subject.placeholder, [read(file) for file in files]))
    return labelled_grid(
        ["learned from", "learned from", *titles], rows, cell_px=_CELL_PX, label_px=_LABEL_PX
    )


def _angle_plot(results: LocalDemoResults) -> str:
    lines = [
        Line(f"{subject.name}, DTI", subject.curve.prior_angle_deg, f"line-{i % 4 + 1}")
        for i, subject in enumerate(results.subjects)
    ]
    baseline = results.baseline
    lines.append(Line(f"{baseline.name}, TI", baseline.curve.prior_angle_deg, "line-ti"))
    return plot(lines, y_label="angle to the prior (degrees)", from_zero=True)


def _norm_plot(results: LocalDemoResults) -> str:
    dti, baseline = results.compared, results.baseline
    words = [results.vocabulary_norm] * dti.num_steps
    lines = [
        Line(f"{dti.name}, DTI", dti.curve.norm, "line-1"),
        Line(f"{baseline.name}, TI", baseline.curve.norm, "line-ti"),
        Line("mean of all words", words, "ink", dashed=True),
    ]
    return plot(lines, y_label="length of the vector", from_zero=True)
