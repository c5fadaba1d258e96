"""The results of an evaluation: everything that the report shows and results.json contains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dti_engine.config import Method
from dti_engine.evaluation.encoder_effects import Effects
from dti_engine.evaluation.statistics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A row of the main table: means over subjects, prompts and seeds."""

    kind: str
    name: str
    title: str
    num_images: int
    subject_score: Estimate
    prompt_score: Estimate
    masked_subject_score: Estimate | None = None  # None unless all photographs have masks
    prompt_cosine: Estimate | None = None  # None on the miniature
    # Text encoder -> mean |e| / m* of the vectors that name the subject; empty: no vector does.
    lengths: Mapping[str, float]
    # One value per prompt; empty unless all subjects share their prompts.
    subject_by_prompt: Sequence[float] = ()
    prompt_by_prompt: Sequence[float] = ()

    @property
    def main_subject_score(self) -> Estimate:
        """The masked score where it exists, as in the paper."""
        return self.masked_subject_score or self.subject_score


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A DTI row minus another row, paired by subject; both are named by their titles."""

    row: str
    other: str
    subject_score: Estimate
    prompt_score: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResults:
    """The results that both domains share."""

    model: str
    protocol: Mapping[str, Any]
    rows: Sequence[RowResult]
    differences: Sequence[RowDifference]
    seconds: float
    environment: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


# The miniature


@dataclass(frozen=True, slots=True)
class SettingResult:
    """A setting that a method chose from, and its scores on the settings subjects."""

    method: Method
    index: int
    lr: float
    kappa: float
    weight_decay: float
    subject_score: float
    prompt_score: float
    lengths: Mapping[str, float]  # as of RowResult
    is_chosen: bool

    @property
    def criterion(self) -> float:
        """The mean of both scores, by which the setting is chosen for either method."""
        return (self.subject_score + self.prompt_score) / 2


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A method after a number of steps, on the first image seed."""

    method: Method
    steps: int
    subject_score: float
    prompt_score: float
    lengths: Mapping[str, float]  # as of RowResult


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both methods at equal subject score, interpolated linearly between their points."""

    level: float  # the subject score
    dti_prompt_score: float
    ti_prompt_score: float
    gap: Estimate  # DTI's minus TI's


@dataclass(frozen=True, slots=True)
class Frontier:
    """The trade-off between the two scores during training, each method at its chosen setting.

    They are compared at each point of the method that reaches less, by ascending subject score.
    """

    points: Sequence[FrontierPoint]
    comparisons: Sequence[Comparison]

    @property
    def highest(self) -> Comparison:
        """The comparison at the highest subject score that both reach, which the aim is about."""
        return self.comparisons[-1]


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """DTI's directions at one length, from the first seeds."""

    length: float  # in m*
    subject_score: Estimate
    prompt_score: Estimate
    drop: Estimate  # its prompt score minus that at m*, paired by subject


@dataclass(frozen=True, slots=True)
class Aim:
    """A property that the project promises of DTI, and the measurement of it."""

    text: str
    reached: float
    needed: float
    margin: Estimate  # reached - needed
    is_strict: bool = False  # "above", not "at least"

    @property
    def is_met(self) -> bool:
        """Return whether the measured value suffices."""
        return self._suffices(self.margin.value)

    @property
    def is_certain(self) -> bool:
        """Return whether both ends of the interval agree."""
        return self._suffices(self.margin.low) == self._suffices(self.margin.high)

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        return ("met" if self.is_met else "not met") + ("" if self.is_certain else ", uncertain")

    def _suffices(self, margin: float) -> bool:
        return margin > 0 if self.is_strict else margin >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniatureResults(EvaluationResults):
    """A whole evaluation of the miniature."""

    subjects: Sequence[str]
    prompts: Sequence[str]  # templates
    num_images: int
    num_tokens: int
    settings: Sequence[SettingResult]
    frontier: Frontier
    aims: Sequence[Aim]
    lengths: Sequence[LengthPoint]
    effects: Effects

    def document(self) -> dict[str, Any]:
        """Return everything as plain values, verdicts first."""
        return {"verdicts": [{"text": aim.text, "verdict": aim.verdict} for aim in self.aims]} | (
            asdict(self)
        )


# Photographs


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """A photographed subject that was evaluated."""

    name: str
    class_noun: str
    num_photos: int
    num_masks: int
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographResults(EvaluationResults):
    """A whole evaluation on photographs."""

    scorers: Mapping[str, str]  # name -> sha256 of its weights
    subjects: Sequence[SubjectFacts]
    is_masked: bool  # whether masked scores are the main subject scores
    configs: Mapping[str, Mapping[str, Any]]  # token name -> training config
