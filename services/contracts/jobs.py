"""Jobs in the words of those who submit them: what is asked for, and how it stands.

A job is up to 10,000 items of one kind. An item is whatever one worker does by itself, such as
learning one subject; the ledger never looks into `work`. A worker makes an *attempt* at an item,
and the item *ends* with a result. What an item's state is follows from what the store holds
(`services.ledger`), and is written nowhere.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

MAX_ITEMS = 10_000
"""Of one job."""

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A name that is part of keys: tenants, pools."""

Kind = Literal["training", "generation"]


class WireModel(BaseModel):
    """What comes from outside or goes there: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Item(WireModel):
    """One of a job's items."""

    name: str = Field(min_length=1, max_length=200, description="the client's own id, unique here")
    work: dict[str, JsonValue] = Field(default={}, description="what to do, for the worker")


class JobRequest(WireModel):
    """A bulk job as it is submitted, once and for all."""

    kind: Kind = "training"
    pool: Label = Field(default="default", description="which workers may take it")
    batch: Label | None = Field(
        default=None, description="jobs of one batch can be worked at side by side; None: with all"
    )
    items: tuple[Item, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    shared: dict[str, JsonValue] = Field(default={}, description="what holds for every item")
    tags: dict[str, Annotated[str, StringConstraints(max_length=200)]] = Field(
        default={}, max_length=20
    )
    max_attempts: int = Field(
        default=4, ge=1, le=20, description="failed or lost ones, before an item ends as failed"
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
            raise ValueError("some text in it is not Unicode: half a surrogate pair") from error
        return self

    def digest(self) -> str:
        """SHA-256 of what is asked for, however its fields were ordered. Fields that are left at
        their defaults are left out, so that fields which a later version adds change nothing.
        """
        asked = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class ItemState(StrEnum):
    """How an item stands. The last four are ends."""

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
    """How a job stands: it follows from its counts, and from whether it was cancelled."""

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
    """How many items of a job are in each state."""

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
        """What the job as a whole is called."""
        if self.queued + self.running:
            if cancelled:
                return JobState.CANCELLING
            return JobState.RUNNING if self.running or self.ended else JobState.QUEUED
        if cancelled and self.cancelled:
            return JobState.CANCELLED
        if self.failed:
            return JobState.PARTIALLY_SUCCEEDED if self.succeeded else JobState.FAILED
        return JobState.SUCCEEDED
