"""The results of a demo: everything that its page shows and results.json contains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import degrees
from statistics import fmean
from typing import Any, Self

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
