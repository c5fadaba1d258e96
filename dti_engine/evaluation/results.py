"""What an evaluation found: everything that the report shows and results.json keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dti_engine.config import Method
from dti_engine.evaluation.encoder_effects import Effects
from dti_engine.evaluation.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Setting:
    """One of the settings that a method could choose from, and how it did on the other subjects."""

    method: Method
    index: int
    lr: float
    kappa: float
    weight_decay: float
    subject_score: float
    prompt_score: float
    norm: float | None  # mean length of the learned vectors
    is_chosen: bool

    @property
    def merit(self) -> float:
        """What is chosen by: the mean of both scores, the same for both methods."""
        return (self.subject_score + self.prompt_score) / 2


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of the main table: means over subjects, prompts and seeds."""

    kind: str
    title: str
    num_images: int
    subject_score: Estimate
    prompt_score: Estimate
    norm: float | None  # mean length of the vectors that name the subject, if one word does
    subject_by_prompt: Sequence[float]
    prompt_by_prompt: Sequence[float]


@dataclass(frozen=True, slots=True)
class Difference:
    """DTI minus another row, paired by subject."""

    other: str  # title
    subject_score: Estimate
    prompt_score: Estimate


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A method after so many steps, on the first image seed."""

    method: Method
    steps: int
    subject_score: float
    prompt_score: float
    norm: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both methods at equal subject score, read off straight lines between their points."""

    level: float  # the subject score
    dti_prompt_score: float
    ti_prompt_score: float
    gap: Estimate  # DTI's minus TI's


@dataclass(frozen=True, slots=True)
class Frontier:
    """How both methods trade one score for the other as they learn, each with its chosen setting.

    They are compared at each point of the one that reaches less, in order of rising subject scores.
    """

    points: Sequence[FrontierPoint]
    comparisons: Sequence[Comparison]

    @property
    def highest(self) -> Comparison:
        """At the highest subject score that both reach: what the aim is about."""
        return self.comparisons[-1]


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """DTI's directions at one length, from the first seeds."""

    length: float  # times m*
    subject_score: Estimate
    prompt_score: Estimate
    drop: Estimate  # its prompt score minus that at m*, paired by subject


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that is promised of DTI, and whether it came true."""

    text: str
    reached: float
    needed: float
    margin: Estimate  # reached - needed
    is_strict: bool = False  # "above", not "at least"

    @property
    def is_met(self) -> bool:
        return self._suffices(self.margin.value)

    @property
    def is_certain(self) -> bool:
        """Whether the whole interval says the same."""
        return self._suffices(self.margin.low) == self._suffices(self.margin.high)

    @property
    def verdict(self) -> str:
        return ("met" if self.is_met else "not met") + ("" if self.is_certain else ", uncertain")

    def _suffices(self, margin: float) -> bool:
        return margin > 0 if self.is_strict else margin >= 0


@dataclass(frozen=True, slots=True)
class Results:
    """A whole evaluation."""

    protocol: Mapping[str, Any]
    subjects: Sequence[str]
    prompts: Sequence[str]  # templates
    num_images: int
    num_tokens: int
    settings: Sequence[Setting]
    rows: Sequence[RowResult]
    differences: Sequence[Difference]
    frontier: Frontier
    aims: Sequence[Aim]
    lengths: Sequence[LengthPoint]
    effects: Effects
    seconds: float
    environment: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        verdicts = [{"text": aim.text, "verdict": aim.verdict} for aim in self.aims]
        return {"verdicts": verdicts} | asdict(self)
