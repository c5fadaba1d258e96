"""The manifest of a token file: model, origin, config, metrics and validation. Loads no torch."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from dti_engine import __version__
from dti_engine.config import Pooling, TrainConfig

SCHEMA_VERSION = 1

ARTIFACT_KEY = "dti"
"""The header entry of our own files: a digest, a blank and the manifest."""

Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

StopReason: TypeAlias = Literal["budget", "converged", "kept", "chosen"]
"""The reason why a token's training ended at its step.

budget: all steps of the config are done. converged: early stopping. kept: an intermediate token of
a longer training. chosen: an intermediate token that scored better than those with more steps.
"""

# An unknown field must not be dropped on the way through an older engine. A new field needs a new
# schema version, which older engines refuse by name (`AnyManifest`).
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ValidationImage(BaseModel):
    """An image generated to validate a token; scores are in 0 .. 1, None without a scorer."""

    model_config = _STRICT

    prompt: str
    seed: int
    subject_score: float | None = None  # likeness to the training images
    prompt_score: float | None = None  # how much of the prompt the image shows


class Quality(BaseModel):
    """The validation of a token, compared with the other tokens of its run."""

    model_config = _STRICT

    scorer: str | None  # what scored the images; None: no scorer knows this model
    images: tuple[ValidationImage, ...]
    subject_score: float | None = None  # mean over the images
    prompt_score: float | None = None
    word_subject_score: float | None = None  # of the initializer in the token's place
    flags: tuple[str, ...] = ()  # reasons to check the token, in words; none: it passed

    @property
    def score(self) -> float | None:
        """The mean of both scores, which orders tokens and selects the best one of a subject."""
        if self.subject_score is None or self.prompt_score is None:
            return None
        return (self.subject_score + self.prompt_score) / 2


class TrainedOrigin(BaseModel):
    """A token that was trained by this package."""

    model_config = _STRICT

    kind: Literal["trained"] = "trained"
    initializer: str
    config: TrainConfig
    seed: int = Field(ge=0, lt=2**64)
    pooling: Pooling | None = None  # None: the model has no pooled embedding
    steps_done: int = Field(gt=0)
    stop_reason: StopReason = "budget"
    images: Mapping[str, Sha256]  # file name -> sha256 of the file
    notes_sha256: Sha256 | None = None  # of captions and masks; None if there are none
    metrics: Mapping[str, float]  # of the last step: loss, prior_angle_rad, ...
    first_fixed_loss: float  # the fixed-batch loss before training; the last one is in `metrics`
    quality: Quality | None = None  # None: not validated yet
    forced: tuple[str, ...] = ()  # objections that --force overrode, such as photographs


class Parent(BaseModel):
    """A token of a blend."""

    model_config = _STRICT

    placeholder: str
    sha256: Sha256  # of its file
    share: float = Field(gt=0, le=1)


class BlendedOrigin(BaseModel):
    """A token that was blended from others."""

    model_config = _STRICT

    kind: Literal["blended"] = "blended"
    parents: tuple[Parent, ...]
    pooling: Pooling | None = None  # as in `TrainedOrigin`


class ImportedOrigin(BaseModel):
    """A token that was trained by another program."""

    model_config = _STRICT

    kind: Literal["imported"] = "imported"
    format_name: str
    pooling: Pooling | None = None  # as in `TrainedOrigin`
    files: Mapping[str, Sha256]  # file name -> sha256 of the file


Origin: TypeAlias = Annotated[
    TrainedOrigin | BlendedOrigin | ImportedOrigin, Field(discriminator="kind")
]


class Manifest(BaseModel):
    """The name of a token, the weights that it belongs to, and its origin."""

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
        """The origin of a trained token; None for a blend or an imported token."""
        return self.origin if isinstance(self.origin, TrainedOrigin) else None

    def with_origin(self, **changes: object) -> "Manifest":
        """Return a copy of a trained token's manifest with changes in its origin."""
        assert self.training
        return self.model_copy(update={"origin": self.training.model_copy(update=changes)})

    @property
    def num_vectors(self) -> dict[str, int]:
        """Encoder -> how many positions the token takes in a prompt."""
        return {encoder: len(lengths) for encoder, lengths in self.magnitudes.items()}


class AnyManifest(BaseModel):
    """The part that all versions of the manifest share."""

    schema_version: int
