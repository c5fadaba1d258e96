"""What a run of the demo found: everything that the page shows and results.json keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import degrees
from statistics import fmean
from typing import Any

from dti_engine.training.metrics import StepMetrics


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated image and how it scored."""

    file: str  # relative to the output folder, as all files are
    prompt: str
    seed: int
    asked: Mapping[str, str]  # what the prompt asks for: question -> answer
    subject_score: float  # likeness to the reference images, in [0, 1]
    prompt_score: float  # share of `asked` that the image shows


@dataclass(frozen=True, slots=True)
class Curve:
    """Figures of every training step, for plots."""

    loss: Sequence[float]
    norm: Sequence[float]
    prior_angle_deg: Sequence[float]

    @classmethod
    def of(cls, reports: Sequence[StepMetrics]) -> "Curve":
        return cls(
            loss=[each.loss for each in reports],
            norm=[each.norm for each in reports],
            prior_angle_deg=[degrees(each.prior_angle_rad) for each in reports],
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """One subject, learned by one method and generated into every prompt."""

    name: str
    method: str  # dti or ti
    placeholder: str
    initializer: str
    token: str  # file
    token_bytes: int
    num_steps: int
    seed: int
    references: Sequence[str]  # files
    generated_images: Sequence[Generation]
    curve: Curve

    @property
    def subject_score(self) -> float:
        """Mean over the generated images."""
        return fmean(each.subject_score for each in self.generated_images)

    @property
    def prompt_score(self) -> float:
        """Mean over the generated images."""
        return fmean(each.prompt_score for each in self.generated_images)


@dataclass(frozen=True, slots=True)
class StripImage:
    """A fraction t of the way from one subject to another, and its likeness to each."""

    file: str
    t: float
    first_score: float
    second_score: float


@dataclass(frozen=True, slots=True)
class Strip:
    """The way from one token to another on the sphere, generated with one seed."""

    first: str  # names of the subjects
    second: str
    prompt: str
    seed: int
    images: Sequence[StripImage]


@dataclass(frozen=True, slots=True)
class Scale:
    """What the subject score says of the reference images themselves."""

    same_subject: float  # between two images of one subject
    other_subject: float  # between images of different subjects


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run."""

    subjects: Sequence[Learned]  # by DTI
    baseline: Learned  # the first of them by standard TI, on the same budget
    strip: Strip
    scale: Scale
    vocabulary_norm: float  # mean length of the words' vectors
    token_dim: int
    generation: Mapping[str, float]  # how every image was generated
    configs: Mapping[str, Mapping[str, Any]]  # method -> training config
    seconds: Mapping[str, float]  # stage -> time
    environment: Mapping[str, str]  # versions and kind of machine

    @property
    def compared(self) -> Learned:
        """What the baseline is to be compared with: the same subject by DTI."""
        return next(each for each in self.subjects if each.name == self.baseline.name)

    @property
    def num_generated_images(self) -> int:
        return sum(len(each.generated_images) for each in (*self.subjects, self.baseline)) + len(
            self.strip.images
        )

    @property
    def subject_score(self) -> float:
        """Mean over the subjects by DTI."""
        return fmean(each.subject_score for each in self.subjects)

    @property
    def prompt_score(self) -> float:
        """Mean over the subjects by DTI."""
        return fmean(each.prompt_score for each in self.subjects)

    def document(self) -> dict[str, Any]:
        """All of it as plain values, with the means that a reader looks for first."""
        means = {
            f"{each.name} {each.method}": {
                "subject_score": each.subject_score,
                "prompt_score": each.prompt_score,
            }
            for each in (*self.subjects, self.baseline)
        }
        summary = {"subject_score": self.subject_score, "prompt_score": self.prompt_score}
        counts = {"subjects": len(self.subjects), "generated_images": self.num_generated_images}
        return {"counts": counts, "mean_dti": summary, "means": means} | asdict(self)
