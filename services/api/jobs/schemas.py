"""What the API answers: jobs and their items. The rest stands beside its routes.

What workers say of the items that they are at. All leases are read at most once a second,
however many ask, since they are the same for all.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.contracts.jobs import Counts, ItemState, JobState, Kind
from services.contracts.models import ServedModels, model_of
from services.ledger import queries as views
from services.ledger.ledger import Ledger
from services.ledger.workers import all_leases

Said = dict[int, dict[str, JsonValue]]
"""By index of the item."""


class Progress:
    """Of one process; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._read = float("-inf")
        self._said: dict[tuple[str, str], Said] = {}

    def of(self, tenant: str, job: str) -> Said:
        """Of a job's items. Those that have ended meanwhile may still be among them."""
        with self._lock:
            # Whoever comes meanwhile waits for this one.
            if self._clock() - self._read >= self._seconds:
                said: dict[tuple[str, str], Said] = {}
                for lease in all_leases(self._ledger):
                    for held in lease.attempts:
                        of_job = said.setdefault((held.tenant, held.job), {})
                        of_job[held.index] = held.progress
                self._said, self._read = said, self._clock()
            return self._said.get((tenant, job), {})


JOB_PATTERN = "[0-9a-hjkmnp-tv-z]{26}"
"""Of ids, as `services.ledger.ids` makes them."""

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


def example(value: Mapping[str, Any]) -> ConfigDict:
    """A frozen model with an example of it."""
    return ConfigDict(frozen=True, json_schema_extra={"examples": [dict(value)]})


class Job(BaseModel):
    """How a job stands."""

    model_config = example(JOB_EXAMPLE)

    job: str = Field(description="its id")
    kind: Kind
    pool: str = Field(description="whose workers take its items")
    model: str = Field(description="the model that it is trained for, or generated with")
    tags: dict[str, str]
    count: int = Field(description="of its items")
    submitted: datetime
    state: JobState
    counts: Counts = Field(description="how many items are in each state")
    progress: float = Field(ge=0, le=1, description="share of the work that is done, as reported")
    created: bool | None = Field(
        default=None, description="in the answer to a submission: whether it has made the job"
    )
    warning: str | None = Field(default=None, description="why it does not go on, and what to do")

    @classmethod
    def of(
        cls,
        view: views.JobView,
        said: Said,
        served_models: ServedModels,
        created: bool | None = None,
    ) -> "Job":
        """said: by workers. It has a warning if its model is not among the offers any more."""
        model = model_of(view.pool)
        done = view.counts.ended + sum(
            _share(progress) for progress in said.values() if not view.state.ended
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
        f"nobody works at it: {model} is not offered any more. Cancel it and submit it for another "
        "model, or have whoever runs the service offer this one again under the same name"
    )


class JobPage(BaseModel):
    """Jobs, the newest first."""

    model_config = example({"jobs": [JOB_EXAMPLE], "next": None})

    jobs: list[Job]
    next: str | None = Field(
        default=None,
        description="cursor of the next page; null: this was the last one. A page may have few "
        "jobs or none, and yet a next one",
    )


class JobEvent(BaseModel):
    """How an item stands, whatever it is."""

    model_config = ConfigDict(frozen=True)

    index: int
    id: str = Field(description="its name in the job: of a subject, the client's own")
    state: ItemState
    reason: str = Field(description="of a failure, with each image that was refused")
    attempt: int = Field(description="the one that the result came of; 0: none yet")
    report: dict[str, JsonValue] | None = Field(
        default=None, description="of a success: scores, seconds, flags, warnings"
    )
    progress: dict[str, JsonValue] | None = Field(
        default=None, description="phase, and step, steps and loss as far as they are known, if run"
    )


def standing(view: views.ItemView, said: Said) -> dict[str, Any]:
    """The fields of `JobEvent`."""
    return {
        "index": view.index,
        "id": view.name,
        "state": view.state,
        "reason": view.reason,
        "attempt": view.attempt,
        "report": view.report,
        "progress": said.get(view.index) if view.state is ItemState.RUNNING else None,
    }


class Item(JobEvent):
    """How an item stands, which is one subject of a job."""

    model_config = example(ITEM_EXAMPLE)

    token: str | None = Field(default=None, description="what was learned, of a success")

    @classmethod
    def of(cls, view: views.ItemView, said: Said) -> "Item":
        return cls(**standing(view, said), token=view.token)


class Page(BaseModel):
    """Part of a list."""

    next: str | None = Field(
        default=None, description="cursor of the next page; null: this was the last one"
    )


class ItemPage(Page):
    """Items of a job in order."""

    model_config = example({"items": [ITEM_EXAMPLE], "next": "1"})

    items: list[Item]


class Attempt(BaseModel):
    """One attempt at an item."""

    model_config = example(ATTEMPT_EXAMPLE) | ConfigDict(from_attributes=True)

    round: int = Field(description="0, and one more for each retry")
    number: int
    worker: str
    claimed: datetime
    ended: datetime | None = None
    cause: str = Field(description="succeeded, failed, cancelled, lost or released; empty: it runs")
    reason: str


class ItemWithAttempts(Item):
    """An item, and all attempts at it."""

    model_config = example(ITEM_EXAMPLE | {"attempts": [ATTEMPT_EXAMPLE]})

    attempts: list[Attempt]


class Retried(BaseModel):
    """How many failed items are tried again."""

    model_config = example({"retried": 3})

    retried: int


class DryRun(BaseModel):
    """The job that would be made."""

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

    count: int
    model: str
    recipe: str
    config: dict[str, JsonValue] = Field(description="the training config, with all overrides")
    steps: int = Field(description="of all subjects together, at most")
    missing: int = Field(description="how many uploads are still to be made")
    missing_uploads: list[str] = Field(description="the first 1000 of them, by their sha256")


def _share(progress: Mapping[str, JsonValue]) -> float:
    """How much of an item is done, as far as its worker says anything sensible."""
    step, steps = progress.get("step"), progress.get("steps")
    if not isinstance(step, int | float) or not isinstance(steps, int | float) or steps <= 0:
        return 0.0
    return max(0.0, min(step / steps, 1.0))
