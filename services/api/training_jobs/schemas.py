"""Schemas of requests for training jobs."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, JsonValue, model_validator

from dti_engine.images.bundles.members import collision_key
from dti_engine.images.bundles.reader import DESCRIPTION
from services.api.jobs.schemas import BaseJobRequest
from services.contracts.jobs import MAX_ITEMS, PRINTABLE, Label
from services.contracts.training import Digest, TrainingItem, default_placeholder

SUBJECT: Mapping[str, Any] = {
    "id": "rex",
    "images": [
        {"name": "rex-1.jpg", "sha256": "1f" * 32},
        {"name": "rex-2.jpg", "sha256": "2e" * 32},
        {"name": "rex-3.jpg", "sha256": "3d" * 32},
    ],
    "placeholder": "<rex>",
    "initializer": "dog",
    "training": {"seed": 7},
}

PERSON: Mapping[str, Any] = {
    "id": "ada",
    "bundle": "4c" * 32,
    "kind": "person",
    "consent": {
        "attested_by": "studio@example.com",
        "basis": "written consent, signed 2026-03-01",
        "expires_at": "2999-01-01T00:00:00Z",
    },
}


class Subject(TrainingItem):
    """A subject: a bundle or single images, and their description.

    The bundle's own bundle.json provides the fields that are omitted here.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [dict(SUBJECT), dict(PERSON)]})

    id: str = Field(
        min_length=1,
        max_length=200,
        pattern=PRINTABLE,
        description="Your own id, unique in the job; it becomes the token's alias.",
    )

    @model_validator(mode="after")
    def _images_can_be_loaded(self) -> "Subject":
        # A worker would refuse the same later, whatever the images show.
        names = [image.name for image in self.images]
        # Only bundle.json can tell the rest, such as which of the files are masks.
        if not names or DESCRIPTION in names:
            return self
        if len({collision_key(name) for name in names}) < len(names):
            raise ValueError("two images have names that are one on some systems: rename one")
        if len({image.sha256 for image in self.images}) < len(names):
            raise ValueError("two images are the same file: remove one")
        if self.initializer is None:
            raise ValueError(
                "there is no initializer: give one, the nearest common word, such as dog"
            )
        return self

    @model_validator(mode="after")
    def _has_placeholder(self) -> "Subject":
        # A bundle.json may give the placeholder as well.
        has_description = self.bundle or DESCRIPTION in [image.name for image in self.images]
        if not (has_description or self.placeholder or default_placeholder(self.id)):
            raise ValueError(
                f"no placeholder can be made of the id {self.id!r}: give one, such as <rex>"
            )
        return self

    @property
    def work(self) -> dict[str, JsonValue]:
        """The subject as an item of the ledger holds it; the id is the item's name."""
        return self.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)


class TrainingJobRequest(BaseJobRequest):
    """A request for a job that trains 1 to 10,000 subjects."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subjects": [dict(SUBJECT), dict(PERSON)],
                    "overrides": {"steps": 100},
                    "tags": {"project": "pets"},
                },
                {"manifest": "5b" * 32, "model": "miniature", "dry_run": True},
            ]
        }
    )

    subjects: tuple[Subject, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_ITEMS, description="The subjects."
    )
    manifest: Digest | None = Field(
        default=None,
        description="In place of `subjects`: the SHA-256 of an uploaded file with one subject per "
        "line, as JSON.",
    )
    model: Label | None = Field(
        default=None, description="A model of GET /v1/models; the first one by default."
    )
    recipe: str | None = Field(
        default=None, max_length=100, description="The recipe; the model's own by default."
    )
    overrides: dict[str, JsonValue] = Field(
        default={},
        max_length=100,
        description="Fields of the training config that replace those of the recipe.",
    )
    force: bool = Field(
        default=False,
        description="Train photographs with a model that knows only drawings; the token's manifest "
        "keeps it.",
    )
    validation_images: int = Field(
        default=4,
        ge=0,
        le=4,
        description="The number of images that are generated with each token to score it.",
    )

    @model_validator(mode="after")
    def _require_subjects_or_manifest(self) -> "TrainingJobRequest":
        if (self.subjects is None) == (self.manifest is None):
            raise ValueError("give either subjects or the digest of an uploaded manifest")
        return self
