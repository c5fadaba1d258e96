"""What a client says of a job that it wants."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, model_validator

from services.contracts.jobs import MAX_ITEMS, Label, WireModel
from services.contracts.training import Digest, TrainingItem

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

TagName = Annotated[str, StringConstraints(pattern=r"^[^:\x00-\x1f\x7f]{1,100}$")]


class Subject(TrainingItem):
    """One subject: a bundle or single images, and what is said of it. What is left out, the
    bundle's own bundle.json says.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [dict(SUBJECT), dict(PERSON)]})

    id: str = Field(
        min_length=1, max_length=200, description="your own id: unique here, and the token's alias"
    )

    @property
    def work(self) -> dict[str, JsonValue]:
        """What stands in an item."""
        return self.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)


class WebhookRequest(WireModel):
    """Who is told when the job ends."""

    url: str = Field(max_length=2000, description="https://...; never a private address")


class TrainingJobRequest(WireModel):
    """A job of 1 to 10,000 subjects."""

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
        default=None, min_length=1, max_length=MAX_ITEMS, description="inline"
    )
    manifest: Digest | None = Field(
        default=None, description="in their place: an uploaded file with one subject a line, JSON"
    )
    model: Label | None = Field(
        default=None, description="a name of GET /v1/models; left out: the first"
    )
    recipe: str | None = Field(default=None, description="left out: the model's own")
    overrides: dict[str, JsonValue] = Field(
        default={}, max_length=100, description="fields of the training config, over the recipe's"
    )
    tags: dict[TagName, Annotated[str, StringConstraints(max_length=200)]] = Field(
        default={}, max_length=20, description="tokens are found by them"
    )
    max_attempts: int = Field(
        default=4, ge=1, le=20, description="failed or lost ones, before an item ends as failed"
    )
    validation_images: int = Field(
        default=4, ge=0, le=4, description="images that each token is validated with"
    )
    webhook: WebhookRequest | None = None
    dry_run: bool = Field(default=False, description="say what would be made, and make nothing")

    @model_validator(mode="after")
    def _has_subjects_once(self) -> "TrainingJobRequest":
        if (self.subjects is None) == (self.manifest is None):
            raise ValueError("give either subjects, or a manifest that was uploaded")
        return self
