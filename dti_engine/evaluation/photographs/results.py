"""What an evaluation on photographs found: what the report shows and results.json keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dti_engine.evaluation.photographs.rows import Row
from dti_engine.evaluation.photographs.store import Score
from dti_engine.evaluation.statistics import Array, Estimate, bootstrap


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of the table: means over pictures, intervals by resampling subjects."""

    name: str
    title: str
    num_pictures: int
    masked_subject_score: Estimate | None  # None unless all photographs have masks
    subject_score: Estimate
    prompt_score: Estimate
    prompt_cosine: Estimate
    lengths: Mapping[str, float]  # encoder -> mean |e| / m* of the vectors that name the subject

    @property
    def image(self) -> Estimate:
        """The main subject score."""
        return self.masked_subject_score or self.subject_score


@dataclass(frozen=True, slots=True)
class Difference:
    """One row minus another, paired by subject."""

    row: str  # titles
    other: str
    image: Estimate
    prompt_score: Estimate


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """Who was evaluated."""

    name: str
    class_noun: str
    num_photos: int
    num_masks: int
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Results:
    """A whole evaluation."""

    backbone: str
    protocol: Mapping[str, Any]
    judges: Mapping[str, str]  # which, and the sha256 of the weights
    subjects: Sequence[SubjectFacts]
    is_masked: bool  # whether the main subject score is that of masked photographs
    configs: Mapping[str, Mapping[str, Any]]  # name of a learned token -> how it was trained
    rows: Sequence[RowResult]
    differences: Sequence[Difference]
    seconds: float
    environment: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def per_subject(scores: Sequence[Score], row: Row, subjects: Sequence[str]) -> Array:
    """(subjects, 4): masked and plain subject score, prompt score and cosine, each the mean over
    all pictures of the subject. Masked ones are nan where there are none.
    """
    means: list[list[float]] = []
    for name in subjects:
        of_subject = [
            (
                np.nan if each.masked_subject_score is None else each.masked_subject_score,
                each.subject_score,
                each.prompt_score,
                each.prompt_cosine,
            )
            for each in scores
            if each.row == row.name and each.subject == name
        ]
        means.append(np.mean(of_subject, axis=0).tolist())
    return np.array(means)


def row_result(
    row: Row, samples: Array, *, num_pictures: int, is_masked: bool, lengths: Mapping[str, float]
) -> RowResult:
    """samples: `per_subject`. Raises: ConfigurationError if there are fewer than 2 subjects."""
    on_black, plain, probability, cosine = samples.T
    return RowResult(
        name=row.name,
        title=row.title,
        num_pictures=num_pictures,
        masked_subject_score=bootstrap(on_black) if is_masked else None,
        subject_score=bootstrap(plain),
        prompt_score=bootstrap(probability),
        prompt_cosine=bootstrap(cosine),
        lengths=lengths,
    )


def differences(samples: Mapping[Row, Array], *, is_masked: bool) -> list[Difference]:
    """Every DTI row minus every other row that is none."""
    main = 0 if is_masked else 1
    found: list[Difference] = []
    for ours in samples:
        for other in samples:
            if ours.is_dti and not other.is_dti:
                gap = samples[ours] - samples[other]
                image, prompt = bootstrap(gap[:, main]), bootstrap(gap[:, 2])
                found.append(Difference(ours.title, other.title, image, prompt))
    return found
