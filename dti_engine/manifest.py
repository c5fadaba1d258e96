"""The manifest of a learned token: what its file says of it. Loads no torch."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from dti_engine import __version__
from dti_engine.config import Method, TrainConfig

SCHEMA_VERSION = 1

Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BlendShare(BaseModel):
    """A token that a blend was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    placeholder: str
    sha256: Sha256  # of its file
    share: float = Field(gt=0, le=1)


class Manifest(BaseModel):
    """What a token is, which weights it belongs to, and how it came about.

    Of a blend, `blend_of` names the parents, `pictures` are all of theirs, and how it was trained
    is told of the parent with the largest share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    placeholder: str
    initializer: str
    backbone: str
    backbone_fingerprint: Sha256
    magnitudes: Mapping[str, tuple[float, ...]]  # encoder -> length of each of its vectors
    config: TrainConfig
    seed: int = Field(ge=0, lt=2**64)
    steps_done: int = Field(gt=0)
    stop_reason: Literal["budget"] = "budget"
    pictures: Mapping[str, Sha256]  # file name -> sha256 of the file
    figures: Mapping[str, float]  # of the last report: loss, prior_angle_rad, ...
    blend_of: tuple[BlendShare, ...] = ()
    engine_version: str = __version__
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def method(self) -> Method:
        return self.config.method

    @property
    def num_vectors(self) -> dict[str, int]:
        """Encoder -> positions that the token takes in a prompt."""
        return {encoder: len(lengths) for encoder, lengths in self.magnitudes.items()}


class AnyManifest(BaseModel):
    """What every version of the manifest has."""

    schema_version: int
