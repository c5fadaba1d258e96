"""Schemas that training jobs and generation jobs share: job requests, jobs, items and attempts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from services.contracts.jobs import CONTROL, PRINTABLE, Counts, ItemState, JobState, Kind, WireModel
from services.contracts.models import ServedModels, model_of
from services.ledger.queries import ItemView, JobView
from services.ledger.workers import ItemProgress

JOB_PATTERN = "[0-9a-hjkmnp-tv-z]{26}"
"""The form of the ids that `services.ledger.ids` makes."""

JOB = "7zk3v9q0d1m2n3p4q5r6s7t8v9"
_COUNTS = {"queued": 1, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 0, "deleted": 0}
_WHEN = "2026-03-01T12:00:00Z"

JOB_EXAMPLE: dict[str, Any] = {
    "job": JOB,
    "kind": "training",
    "pool": "miniature",
    "model": "miniature",
    "tags": {"project": "pets"},
    "count": 2,
    "submitted": _WHEN,
    "state": "running",
    "counts": _COUNTS,
    "progress": 0.25,
    "created": None,
    "warning": None,
    "warnings": [],
}

ITEM_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "id": "rex",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "token": f"tok_{JOB}0000000",
    "report": {"placeholder": "<rex>", "steps": 200, "gpu_seconds": 4.5, "subject_score": 0.81},
    "progress": None,
}

ATTEMPT_EXAMPLE: dict[str, Any] = {
    "round": 0,
    "number": 1,
    "worker": "q5r6s7t8v9w0x1y2",
    "claimed": _WHEN,
    "ended": "2026-03-01T12:00:09Z",
    "cause": "succeeded",
    "reason": "",
}

IdCursor = Annotated[
    str | None, Query(pattern=f"^{JOB_PATTERN}$", description="`next` of the previous page.")
]
PageLimit = Annotated[
    int, Query(ge=1, le=200, description="The maximum number of entries on the page.")
]
TagName = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=f"^[^:{CONTROL}]*$")
]
TagValue = Annotated[str, StringConstraints(max_length=200, pattern=PRINTABLE)]


_MAX_WARNINGS = 20


def shorten(warnings: Sequence[str]) -> list[str]:
    """Return the first warnings, each once, with the number of the others in the last one."""
    different = list(dict.fromkeys(warnings))
    if len(different) <= _MAX_WARNINGS:
        return different
    shown = different[: _MAX_WARNINGS - 1]
    return [*shown, f"{len(different) - len(shown)} more warnings of these kinds"]


def example(value: Mapping[str, Any]) -> ConfigDict:
    """Return the config of a frozen model with an example."""
    return ConfigDict(frozen=True, json_schema_extra={"examples": [dict(value)]})


class WebhookRequest(WireModel):
    """The receiver of a message when the job ends."""

    url: str = Field(
        max_length=2000, description="A URL, `https://...`, that has no private address."
    )


class BaseJobRequest(WireModel):
    """The fields that requests for jobs of both kinds share."""

    tags: dict[TagName, TagValue] = Field(
        default={}, max_length=20, description="Tags of the job; tokens are found by them."
    )
    max_attempts: int = Field(
        default=4,
        ge=1,
        le=20,
        description="The number of failed or lost attempts after which an item fails.",
    )
    webhook: WebhookRequest | None = Field(
        default=None, description="Where to send a message when the job ends."
    )
    dry_run: bool = Field(
        default=False, description="Validate the request and describe the job, but create nothing."
    )


class Job(BaseModel):
    """A job and its state."""

    model_config = example(JOB_EXAMPLE)

    job: str = Field(description="The id of the job.")
    kind: Kind = Field(description="The kind of the job.")
    pool: str = Field(description="The pool of workers that processes the items.")
    model: str = Field(description="The model that tokens are trained for or images made with.")
    tags: dict[str, str] = Field(description="The tags of the request.")
    count: int = Field(description="The number of items.")
    submitted: datetime = Field(description="The time of the submission.")
    state: JobState = Field(description="The state of the job.")
    counts: Counts = Field(description="The number of items in each state.")
    progress: float = Field(ge=0, le=1, description="The fraction of the work that is done.")
    created: bool | None = Field(
        default=None,
        description="In the response to a submission: true if this request created the job.",
    )
    warning: str | None = Field(
        default=None, description="Why the job does not proceed, and what to do."
    )
    warnings: list[str] = Field(
        default=[],
        description="In the response to a submission: what of the request has no effect, or not "
        "the one that may be meant. At most 20.",
    )

    @classmethod
    def of(
        cls,
        view: JobView,
        progress: ItemProgress,
        served_models: ServedModels,
        created: bool | None = None,
    ) -> "Job":
        """Return the resource of a job; it has a warning if its model is no longer offered."""
        model = model_of(view.pool)
        # Leases are read less often than results: items that have ended since may be counted twice,
        # so that the fraction is capped.
        done = view.counts.ended + sum(
            _fraction(item) for item in progress.values() if not view.state.ended
        )
        return cls(
            job=view.job,
            kind=view.kind,
            pool=view.pool,
            model=model,
            tags=view.tags,
            count=view.count,
            submitted=view.submitted,
            state=view.state,
            counts=view.counts,
            progress=round(min(done / view.count, 1.0), 4),
            created=created,
            warning=None if view.state.ended or model in served_models else _not_served(model),
        )


def _not_served(model: str) -> str:
    return (
        f"no worker processes this job, because {model} is no longer offered: cancel it and submit "
        "it for another model, or ask the operator to offer the model again under this name"
    )


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    model_config = example({"jobs": [JOB_EXAMPLE], "next": None})

    jobs: list[Job]
    next: str | None = Field(
        default=None,
        description="The cursor of the next page; null on the last page. A page may hold few jobs, "
        "or none, and still have a next one.",
    )


class BaseItem(BaseModel):
    """The fields that items of both kinds share."""

    model_config = ConfigDict(frozen=True)

    index: int = Field(description="The index of the item in its job.")
    id: str = Field(description="The name of the item in its job; for a subject, your own id.")
    state: ItemState = Field(description="The state of the item.")
    reason: str = Field(description="Why the item failed, with each image that was refused.")
    attempt: int = Field(description="The attempt that produced the result; 0 before it ends.")
    report: dict[str, JsonValue] | None = Field(
        default=None, description="The scores, times, flags and warnings of a success."
    )
    progress: dict[str, JsonValue] | None = Field(
        default=None,
        description="The phase, step, steps and loss of a running item, as far as they are known.",
    )


def item_fields(view: ItemView, progress: ItemProgress) -> dict[str, Any]:
    """Return the fields of `BaseItem`."""
    return {
        "index": view.index,
        "id": view.name,
        "state": view.state,
        "reason": view.reason,
        "attempt": view.attempt,
        "report": view.report,
        "progress": progress.get(view.index) if view.state is ItemState.RUNNING else None,
    }


class Item(BaseItem):
    """A subject of a training job, and its state."""

    model_config = example(ITEM_EXAMPLE)

    token: str | None = Field(default=None, description="The id of the trained token.")

    @classmethod
    def of(cls, view: ItemView, progress: ItemProgress) -> "Item":
        return cls(**item_fields(view, progress), token=view.token)


class PageResource(BaseModel):
    """A page of a list."""

    next: str | None = Field(
        default=None, description="The cursor of the next page; null on the last page."
    )


class ItemPage(PageResource):
    """A page of a job's items, by index."""

    model_config = example({"items": [ITEM_EXAMPLE], "next": "1"})

    items: list[Item]


class AttemptResource(BaseModel):
    """An attempt of a worker at an item."""

    model_config = example(ATTEMPT_EXAMPLE) | ConfigDict(from_attributes=True)

    round: int = Field(description="0 at first, and one more after each retry.")
    number: int = Field(description="The number of the attempt in its round, from 1.")
    worker: str = Field(description="The id of the worker.")
    claimed: datetime = Field(description="When the worker claimed the item.")
    ended: datetime | None = Field(default=None, description="When the attempt ended.")
    cause: str = Field(
        description="How the attempt ended: `succeeded`, `failed`, `cancelled`, `lost` or "
        "`released`; empty while it runs."
    )
    reason: str = Field(description="Why the attempt failed.")


class ItemWithAttempts(Item):
    """An item with all attempts at it."""

    model_config = example(ITEM_EXAMPLE | {"attempts": [ATTEMPT_EXAMPLE]})

    attempts: list[AttemptResource]


class RetryResponse(BaseModel):
    """The result of a retry."""

    model_config = example({"retried": 3})

    retried: int = Field(description="The number of failed items that are tried again.")


class DryRun(BaseModel):
    """The training job that a request would create."""

    model_config = example(
        {
            "count": 2,
            "model": "miniature",
            "recipe": "miniature",
            "config": {"method": "dti", "steps": 200, "batch_size": 4, "resolution": 64},
            "steps": 400,
            "missing": 1,
            "missing_uploads": ["4c" * 32],
        }
    )

    count: int = Field(description="The number of subjects.")
    model: str = Field(description="The model that tokens are trained for.")
    recipe: str = Field(description="The recipe of the training config.")
    config: dict[str, JsonValue] = Field(description="The training config, with all overrides.")
    steps: int = Field(description="The maximum number of steps of all subjects together.")
    missing: int = Field(description="The number of uploads that are still missing.")
    missing_uploads: list[str] = Field(
        description="The SHA-256 of the missing uploads, the first 1000 of them."
    )
    learns_photographs: bool = Field(
        default=True, description="Whether the model can learn photographs, as far as is known."
    )


def _fraction(progress: Mapping[str, JsonValue]) -> float:
    """Return the fraction of an item that is done; 0 if its worker reports nothing usable."""
    step, steps = progress.get("step"), progress.get("steps")
    if not isinstance(step, int | float) or not isinstance(steps, int | float) or steps <= 0:
        return 0.0
    return max(0.0, min(step / steps, 1.0))
