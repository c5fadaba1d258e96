"""The results of a demo, its self-contained page, the contact sheet, and results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import degrees
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from markupsafe import Markup
from PIL import Image

from dti_engine.files import atomic_write
from dti_engine.html.page import data_uri, duration, template, with_token
from dti_engine.html.plots import Line, plot
from dti_engine.images.contact_sheet import labelled_grid
from dti_engine.miniature.world.subjects import demo_prompts
from dti_engine.training.metrics import StepMetrics


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A generated image and its scores."""

    file: str  # relative to the output folder, as all files are
    prompt: str
    seed: int
    asked: Mapping[str, str]  # what the prompt asks for: question -> answer
    subject_score: float  # likeness to the reference images, in [0, 1]
    prompt_score: float  # share of `asked` that the image shows


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSubject:
    """A subject, learned by one method and generated in every prompt."""

    name: str
    placeholder: str
    initializer: str
    token: str  # file, or id in a service
    references: Sequence[str]  # files
    images: Sequence[DemoImage]

    @property
    def subject_score(self) -> float:
        """Mean over the generated images."""
        return fmean(image.subject_score for image in self.images)

    @property
    def prompt_score(self) -> float:
        """Mean over the generated images."""
        return fmean(image.prompt_score for image in self.images)

    @property
    def title(self) -> str:
        """The name of the subject's scores, unique in a run."""
        return self.name


@dataclass(frozen=True, slots=True)
class StripImage:
    """An image between two subjects, at the fraction t of the way, and its likeness to each."""

    file: str
    t: float
    first_score: float
    second_score: float


@dataclass(frozen=True, slots=True)
class Strip:
    """Blends of two tokens at equal distances on the sphere, generated with one seed."""

    first: str  # names of the subjects
    second: str
    prompt: str
    seed: int
    images: Sequence[StripImage]


@dataclass(frozen=True, slots=True)
class LikenessScale:
    """The subject scores of the reference images themselves."""

    same_subject: float  # between two images of one subject
    other_subject: float  # between images of different subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResults:
    """The results that every demo has."""

    subjects: Sequence[DemoSubject]
    strips: Sequence[Strip]
    scale: LikenessScale
    seconds: Mapping[str, float]  # stage -> time
    environment: Mapping[str, str]  # versions and kind of machine

    @property
    def all_subjects(self) -> Sequence[DemoSubject]:
        """The subjects, and further trainings of them."""
        return self.subjects

    @property
    def num_images(self) -> int:
        """The number of generated images."""
        of_prompts = sum(len(subject.images) for subject in self.all_subjects)
        return of_prompts + sum(len(strip.images) for strip in self.strips)

    @property
    def subject_score(self) -> float:
        """Mean over the subjects."""
        return fmean(subject.subject_score for subject in self.subjects)

    @property
    def prompt_score(self) -> float:
        """Mean over the subjects."""
        return fmean(subject.prompt_score for subject in self.subjects)

    def document(self) -> dict[str, Any]:
        """Return everything as plain values, led by the means that a reader looks for first."""
        means = {
            subject.title: {
                "subject_score": subject.subject_score,
                "prompt_score": subject.prompt_score,
            }
            for subject in self.all_subjects
        }
        mean = {"subject_score": self.subject_score, "prompt_score": self.prompt_score}
        counts = {"subjects": len(self.subjects), "images": self.num_images}
        return {"counts": counts, "mean": mean, "means": means} | asdict(self)


# The local demo


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """Metrics of every training step, for plots."""

    loss: Sequence[float]
    norm: Sequence[float]
    prior_angle_deg: Sequence[float]

    @classmethod
    def of(cls, reports: Sequence[StepMetrics]) -> Self:
        """Return the curve of these steps."""
        return cls(
            loss=[report.loss for report in reports],
            norm=[report.norm for report in reports],
            prior_angle_deg=[degrees(report.prior_angle_rad) for report in reports],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDemoSubject(DemoSubject):
    """A subject whose training was observed step by step."""

    method: str  # dti or ti
    token_bytes: int
    num_steps: int
    seed: int
    curve: TrainingCurve

    @property
    def title(self) -> str:
        return f"{self.name} {self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDemoResults(DemoResults):
    """A run on this machine, beside a baseline."""

    subjects: Sequence[TrainedDemoSubject]  # by DTI
    baseline: TrainedDemoSubject  # the first of them by standard TI, on the same budget
    vocabulary_norm: float  # mean length of the words' vectors
    token_dim: int
    generation: Mapping[str, float]  # settings of every image
    configs: Mapping[str, Mapping[str, Any]]  # method -> training config

    @property
    def all_subjects(self) -> Sequence[TrainedDemoSubject]:
        return [*self.subjects, self.baseline]

    @property
    def compared(self) -> TrainedDemoSubject:
        """The baseline's subject by DTI."""
        return next(subject for subject in self.subjects if subject.name == self.baseline.name)


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
