"""The schema of `bundle.json`: a description of the subject and of single images."""

import codecs
import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as SchemaError
from pydantic_core import from_json

from dti_engine.config import (
    MAX_TRAINING_STEPS,
    MAX_VECTORS,
    PLACEHOLDER,
    Kind,
    Magnitude,
    Schedule,
    explain,
)
from dti_engine.images.bundles.members import BundleFinding, normalized, printable
from dti_engine.images.bundles.reader import DESCRIPTION

ALPHA = "alpha"
"""The mask of an image that its own transparency is."""

_MENTION = re.compile(r"<[^<>\s]*>")

_MAX_NOTES = 1000
"""Images and masks that are described: the entries of a bundle."""


def _subject(value: str) -> str:
    if not PLACEHOLDER.fullmatch(f"<{value}>"):
        raise ValueError(
            "must be 1 to 63 characters of a-z, 0-9, '-' and '_', the first a letter or digit, "
            f"got {value!r:.80}"
        )
    return value


def _placeholder(value: str) -> str:
    if not PLACEHOLDER.fullmatch(value):
        raise ValueError(f"must be <name>, such as <rex>, got {value!r:.80}")
    return value


def _caption(value: str) -> str:
    if "{}" not in value:
        raise ValueError(f"must have {{}} where the placeholder goes, got {value!r:.80}")
    if found := _MENTION.search(value):
        raise ValueError(f"must not name {found[0]}: {{}} alone stands for the subject")
    return value


_Text: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")
]
_File: TypeAlias = Annotated[_Text, AfterValidator(normalized)]


class ImageNotes(BaseModel):
    """The caption and mask of one image."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    caption: Annotated[_Text, AfterValidator(_caption)] | None = Field(
        default=None, description="replaces the templates; {} stands for the placeholder"
    )
    mask: _File | None = Field(
        default=None,
        description="an image file of the same size, whose white is the subject; or `alpha`, the "
        "opaque part of the image itself",
    )


class TrainingOverrides(BaseModel):
    """Training options of this subject; all others are those of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    seed: int | None = Field(default=None, ge=0, lt=2**64, description="seed of all random draws")
    vectors: int | None = Field(
        default=None, ge=1, le=MAX_VECTORS, description="vectors of the token"
    )
    steps: int | None = Field(
        default=None, gt=0, le=MAX_TRAINING_STEPS, description="optimizer steps"
    )
    lr: float | None = Field(default=None, gt=0, le=1, description="learning rate")
    kappa: float | None = Field(default=None, ge=0, le=1e12, description="strength of the prior")
    magnitude: Magnitude | None = Field(default=None, description="length of the embedding")
    schedule: Schedule | None = Field(default=None, description="schedule of the learning rate")
    patience: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TRAINING_STEPS,
        description="early stopping after so many evaluations without improvement",
    )
    ema_decay: float | None = Field(
        default=None, ge=0, lt=1, description="decay of the moving average of directions"
    )

    def changes(self) -> dict[str, object]:
        """Return the fields of `TrainConfig` that the subject overrides."""
        return self.model_dump(exclude={"seed", "vectors"}, exclude_none=True)


class BundleDescription(BaseModel):
    """The description of a subject; every field is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    subject: Annotated[str, Field(max_length=63), AfterValidator(_subject)] | None = Field(
        default=None, description="id of the subject, and name of its file"
    )
    placeholder: Annotated[str, Field(max_length=65), AfterValidator(_placeholder)] | None = Field(
        default=None, description="the token's name in prompts"
    )
    initializer: _Text | None = Field(default=None, description="nearest common word or phrase")
    class_noun: _Text | None = Field(
        default=None,
        description="what it is, for scoring prompts; default: the initializer",
    )
    kind: Kind | None = Field(default=None, description="family of caption templates")
    training: TrainingOverrides = Field(
        default=TrainingOverrides(), description="training options of this subject"
    )
    tags: tuple[_Text, ...] = Field(default=(), max_length=50, strict=False)
    images: Mapping[_File, ImageNotes] = Field(
        default_factory=dict[str, ImageNotes],
        max_length=_MAX_NOTES,
        description="file name -> caption and mask",
    )

    @property
    def masks(self) -> set[str]:
        """The names of all mask files."""
        masks = {notes.mask for notes in self.images.values()}
        return {mask for mask in masks if mask and mask != ALPHA}


def parse(data: bytes) -> tuple[BundleDescription, list[BundleFinding]]:
    """Parse a JSON file; return the valid description and the errors of the rest."""
    try:
        # Unlike `json`, it limits recursion and rejects invalid UTF-8.
        values = from_json(data.removeprefix(codecs.BOM_UTF8))  # Windows' editors write it
    except ValueError as error:
        return BundleDescription(), [BundleFinding(DESCRIPTION, f"is not JSON in UTF-8 ({error})")]
    if not isinstance(values, dict):
        return BundleDescription(), [BundleFinding(DESCRIPTION, "must be a JSON object: { ... }")]
    errors, accepted = list[BundleFinding](), dict[str, object]()
    images = values.get("images")
    if isinstance(images, dict):
        # One by one, so that each error has the name of its image.
        for name, notes in images.items():
            try:
                accepted[name] = ImageNotes.model_validate(notes).model_dump()
            except SchemaError as error:
                reason = f"{DESCRIPTION}: {explain(error, ImageNotes)}"
                errors.append(BundleFinding(printable(name), printable(reason)))
        values["images"] = accepted
    try:
        return BundleDescription.model_validate(values), errors
    except SchemaError as error:
        errors.insert(0, BundleFinding(DESCRIPTION, printable(explain(error, BundleDescription))))
        return BundleDescription(), errors
