"""The manifest of a learned token: what its file says of it. Loads no torch."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from dti_engine import __version__
from dti_engine.config import Pooling, TrainConfig

SCHEMA_VERSION = 1

Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

StopReason: TypeAlias = Literal["budget", "converged", "kept", "chosen"]
"""Why a token had no more steps: it had all of them; more would have changed little; it was kept on
its way to them; or it was kept and chosen, as it scored better than those with more.
"""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ValidationImage(BaseModel):
    """An image that a token was tried out in; scores lie in 0 .. 1, None without a judge."""

    model_config = _STRICT

    prompt: str
    seed: int
    subject_score: float | None = None  # likeness to the images that it was learned from
    prompt_score: float | None = None  # share of the prompt that is obeyed


class Quality(BaseModel):
    """What came of a token when it was tried out, beside the other tokens of its run."""

    model_config = _STRICT

    scorer: str | None  # what scored the images; None: no scorer knows this model
    images: tuple[ValidationImage, ...]
    subject_score: float | None = None  # means over the images
    prompt_score: float | None = None
    word_subject_score: float | None = None  # what the initializer in its place scores
    flags: tuple[str, ...] = ()  # what is wrong with it, in words; none: it passed

    @property
    def score(self) -> float | None:
        """The mean of both: tokens are ordered by it, and the best of a subject is chosen."""
        if self.subject_score is None or self.prompt_score is None:
            return None
        return (self.subject_score + self.prompt_score) / 2


class TrainedOrigin(BaseModel):
    """Learned here."""

    model_config = _STRICT

    kind: Literal["trained"] = "trained"
    initializer: str
    config: TrainConfig
    seed: int = Field(ge=0, lt=2**64)
    pooling: Pooling | None = None  # None: the denoiser is given no summary of the prompt
    steps_done: int = Field(gt=0)
    stop_reason: StopReason = "budget"
    images: Mapping[str, Sha256]  # file name -> sha256 of the file
    notes_sha256: Sha256 | None = None  # of captions and masks; None if no image has either
    metrics: Mapping[str, float]  # of the last report: loss, prior_angle_rad, ...
    first_fixed_loss: float  # that `fixed_loss` among the figures has come from
    quality: Quality | None = None  # None: not tried out yet


class Parent(BaseModel):
    """A token that a blend was made of."""

    model_config = _STRICT

    placeholder: str
    sha256: Sha256  # of its file
    share: float = Field(gt=0, le=1)


class BlendedOrigin(BaseModel):
    """Made of other tokens."""

    model_config = _STRICT

    kind: Literal["blended"] = "blended"
    parents: tuple[Parent, ...]
    pooling: Pooling | None = None  # as of `TrainedOrigin`


class ImportedOrigin(BaseModel):
    """Learned by another program."""

    model_config = _STRICT

    kind: Literal["imported"] = "imported"
    format_name: str
    pooling: Pooling | None = None  # as of `TrainedOrigin`
    files: Mapping[str, Sha256]  # file name -> sha256 of the file


Origin: TypeAlias = Annotated[
    TrainedOrigin | BlendedOrigin | ImportedOrigin, Field(discriminator="kind")
]


class Manifest(BaseModel):
    """What a token is, which weights it belongs to, and how it came about."""

    model_config = _STRICT

    schema_version: Literal[1] = SCHEMA_VERSION
    placeholder: str
    model: str
    model_fingerprint: Sha256
    magnitudes: Mapping[str, tuple[float, ...]]  # encoder -> length of each of its vectors
    origin: Origin
    engine_version: str = __version__
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def training(self) -> TrainedOrigin | None:
        """How it was trained; None of a blend or of another program's token."""
        return self.origin if isinstance(self.origin, TrainedOrigin) else None

    def with_origin(self, **changes: object) -> "Manifest":
        """The manifest of a trained token with other values in its origin."""
        assert self.training
        return self.model_copy(update={"origin": self.training.model_copy(update=changes)})

    @property
    def num_vectors(self) -> dict[str, int]:
        """Encoder -> positions that the token takes in a prompt."""
        return {encoder: len(lengths) for encoder, lengths in self.magnitudes.items()}


class AnyManifest(BaseModel):
    """What every version of the manifest has."""

    schema_version: int
