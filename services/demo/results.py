"""What a run of the demo found: all that the page shows and results.json keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from dti_engine.demo.results import Generation, Scale, Strip


@dataclass(frozen=True, slots=True)
class Learned:
    """A subject that the service has learned, and its images."""

    name: str
    placeholder: str
    initializer: str
    token: str  # id
    report: Mapping[str, Any]  # as the service has it
    references: Sequence[str]  # files, relative to the output folder, as all are
    generated_images: Sequence[Generation]

    @property
    def subject_score(self) -> float:
        """Mean over the generated images."""
        return fmean(each.subject_score for each in self.generated_images)

    @property
    def prompt_score(self) -> float:
        """Mean over the generated images."""
        return fmean(each.prompt_score for each in self.generated_images)


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that the service says of itself."""

    value: str
    words: str


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run."""

    subjects: Sequence[Learned]
    strips: Sequence[Strip]
    scale: Scale
    figures: Sequence[Figure]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]  # stage -> time
    environment: Mapping[str, str]

    @property
    def num_images(self) -> int:
        of_prompts = sum(len(each.generated_images) for each in self.subjects)
        return of_prompts + sum(len(each.images) for each in self.strips)

    @property
    def subject_score(self) -> float:
        """Mean over the subjects."""
        return fmean(each.subject_score for each in self.subjects)

    @property
    def prompt_score(self) -> float:
        """Mean over the subjects."""
        return fmean(each.prompt_score for each in self.subjects)

    def document(self) -> dict[str, Any]:
        """All of it as plain values, with the means that a reader looks for first."""
        means = {
            each.name: {
                "subject_score": each.subject_score,
                "prompt_score": each.prompt_score,
            }
            for each in self.subjects
        }
        summary = {"subject_score": self.subject_score, "prompt_score": self.prompt_score}
        counts = {"subjects": len(self.subjects), "images": self.num_images}
        return {"counts": counts, "mean": summary, "means": means} | asdict(self)
