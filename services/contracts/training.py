"""Training jobs on the wire: the `work` of their items and the `shared` part of the job.

The API writes these and workers read them; the ledger passes them on unread. This module loads no
torch.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints, model_validator

from dti_engine.config import PLACEHOLDER, TrainConfig
from dti_engine.images.bundles.schema import Kind, TrainingOverrides
from services.contracts.jobs import CONTROL, PRINTABLE, Label, WireModel

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of an upload in hexadecimal, which is also its id."""

FileName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60, pattern=rf"^[^./\\{CONTROL}][^/\\{CONTROL}]*$"),
]


class ImageFile(WireModel):
    """A uploaded image of a subject."""

    name: FileName = Field(description="file name, which ends with .jpg, .png or .webp")
    sha256: Digest


class Consent(WireModel):
    """The record of a person's consent: who attests it, and on what basis."""

    attested_by: str = Field(min_length=1, max_length=200, pattern=PRINTABLE)
    basis: str = Field(
        min_length=1, max_length=1000, pattern=PRINTABLE, description="such as: written consent"
    )
    expires_at: AwareDatetime | None = Field(default=None, description="None: until withdrawn")

    def holds(self, now: datetime) -> bool:
        """Return whether the consent has not expired."""
        return self.expires_at is None or now < self.expires_at


class TrainingItem(WireModel):
    """A subject to train: its images and settings. A bundle.json gives what is left out here."""

    bundle: Digest | None = Field(default=None, description="an uploaded zip or tar of images")
    images: tuple[ImageFile, ...] = Field(
        default=(), max_length=100, description="images uploaded one by one, instead of a bundle"
    )
    placeholder: str | None = Field(default=None, pattern=f"^{PLACEHOLDER.pattern}$")
    initializer: str | None = Field(default=None, min_length=1, max_length=300, pattern=PRINTABLE)
    kind: Kind | None = Field(default=None, description="family of caption templates")
    training: TrainingOverrides = Field(
        default=TrainingOverrides(), description="settings that differ from the job's"
    )
    consent: Consent | None = Field(default=None, description="required of persons")

    @model_validator(mode="after")
    def _has_images_once(self) -> "TrainingItem":
        if (self.bundle is None) == (not self.images):
            raise ValueError("give either bundle or images, by the digests of the uploads")
        names = [image.name for image in self.images]
        if len(set(names)) < len(names):
            raise ValueError("two images have the same name: give each one of its own")
        return self

    @model_validator(mode="after")
    def _persons_consent(self) -> "TrainingItem":
        if self.kind == "person" and self.consent is None:
            raise ValueError("a person needs a consent record: who attests it, and on what basis")
        return self


def default_placeholder(name: str) -> str | None:
    """Return the placeholder of a subject that is given none; None if its name allows none."""
    word = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63]
    return f"<{word}>" if word else None


def upload_digests(work: Mapping[str, Any]) -> Iterator[str]:
    """Yield the digests of the uploads that the `work` of an item names, without validating it."""
    if bundle := work.get("bundle"):
        yield bundle
    yield from (image["sha256"] for image in work.get("images", ()))


class TrainingJobSpec(WireModel):
    """The settings that all subjects of a training job share."""

    model: Label
    recipe: str
    config: dict[str, JsonValue] = Field(
        description="the whole TrainConfig, so that a recipe that changes later changes no job"
    )
    validation_images: int = Field(
        default=4, ge=0, le=4, description="images that each token is validated with"
    )
    webhook: str | None = Field(default=None, description="URL to notify when the job ends")
    manifest: Digest | None = Field(
        default=None,
        description="upload that listed the subjects, which is erased with any of them",
    )
    photographs: Literal["learned", "refused", "forced"] = Field(
        default="learned",
        description="whether the model learns photographs; forced: trained although it does not",
    )
    max_steps: int | None = Field(
        default=None, description="steps that a bundle.json may ask for at most; none: any number"
    )


def batch_of(config: TrainConfig) -> str:
    """Return a label that two configs share exactly if their subjects fit into one batch.

    `TrainConfig.incompatibility_with` decides the same for a pair.
    """
    # The fields that `incompatibility_with` compares. All others may differ from row to row of a
    # batch.
    shape = f"{config.method} {config.batch_size} {config.resolution} {config.beta2!r}"
    digest = hashlib.sha256(shape.encode()).hexdigest()[:12]
    return f"{config.method}-{config.batch_size}-{config.resolution}-{digest}"
