"""Jobs and their items, as clients submit and see them.

A job has up to 10,000 items of one kind. An item is a unit of work of one worker, such as training
one subject; the ledger never reads its `work`. A worker makes an *attempt* at an item, and the item
*ends* with a result. The state of an item is derived from the objects in the store
(`services.ledger`), and is itself stored nowhere.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

MAX_ITEMS = 10_000
"""The largest number of items in one job."""

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A name that is part of object keys, such as that of a tenant or a pool."""

CONTROL = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""The characters that control a terminal or the direction of writing, for a regular expression.

Names have none of them, so that a name is what a table or a log shows.
"""

PRINTABLE = f"^[^{CONTROL}]*$"
"""A text without control characters, as a regular expression."""

Kind = Literal["training", "generation"]


class WireModel(BaseModel):
    """The base of types that processes exchange. Unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobItem(WireModel):
    """An item of a job."""

    name: str = Field(
        min_length=1, max_length=200, description="the client's own id, unique in the job"
    )
    work: dict[str, JsonValue] = Field(default={}, description="read by the worker alone")


class JobRequest(WireModel):
    """A job as it is submitted; it never changes."""

    kind: Kind = "training"
    pool: Label = Field(
        default="default", description="pool of the workers that may claim its items"
    )
    batch: Label | None = Field(
        default=None,
        description="only jobs with the same label share a batch of a worker; None: any jobs do",
    )
    items: tuple[JobItem, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    shared: dict[str, JsonValue] = Field(default={}, description="what all items share")
    tags: dict[str, Annotated[str, StringConstraints(max_length=200)]] = Field(
        default={}, max_length=20
    )
    max_attempts: int = Field(
        default=4, ge=1, le=20, description="failed or lost attempts before an item ends as failed"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "JobRequest":
        if len({item.name for item in self.items}) < len(self.items):
            name, count = Counter(item.name for item in self.items).most_common(1)[0]
            raise ValueError(f"{count} items are called {name!r}: give each a name of its own")
        return self

    @model_validator(mode="after")
    def _can_be_written(self) -> "JobRequest":
        try:
            self.model_dump_json()
        except ValueError as error:
            raise ValueError(
                "a text in it is not valid Unicode: it has half a surrogate pair"
            ) from error
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the request, which does not depend on the order of its fields."""
        # Fields at their defaults are left out, so that a field that a later version adds does not
        # change the digest of an old request.
        fields = self.model_dump(mode="json", exclude_defaults=True)
        # The same items make the same request, whether they were sent or listed by an upload.
        fields.get("shared", {}).pop("manifest", None)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class ItemState(StrEnum):
    """The state of an item; the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETED = "deleted"

    @property
    def ended(self) -> bool:
        return self not in (ItemState.QUEUED, ItemState.RUNNING)


class JobState(StrEnum):
    """The state of a job, which follows from its counts and from whether it was cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)


class Counts(WireModel):
    """The number of a job's items in each state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    deleted: int = 0

    @classmethod
    def of(cls, states: Iterable[ItemState]) -> "Counts":
        counted: dict[str, Any] = {state.value: n for state, n in Counter(states).items()}
        return cls(**counted)

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.deleted

    @property
    def total(self) -> int:
        return self.queued + self.running + self.ended

    def state(self, *, cancelled: bool) -> JobState:
        """Return the state of the job as a whole."""
        if self.queued + self.running:
            if cancelled:
                return JobState.CANCELLING
            return JobState.RUNNING if self.running or self.ended else JobState.QUEUED
        if cancelled and self.cancelled:
            return JobState.CANCELLED
        if self.failed:
            return JobState.PARTIALLY_SUCCEEDED if self.succeeded else JobState.FAILED
        return JobState.SUCCEEDED
