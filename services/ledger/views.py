"""Jobs, items, attempts and tokens as clients see them."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from services.jobs import Counts, ItemState, JobState, Kind
from services.ledger.records import ResultRecord


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as a client sees it."""

    job: str
    kind: Kind
    pool: str
    tags: dict[str, str]
    count: int
    submitted: datetime
    """By the store's clock."""
    state: JobState
    counts: Counts


@dataclass(frozen=True, slots=True)
class ItemView:
    """An item as a client sees it."""

    index: int
    name: str
    state: ItemState
    reason: str = ""
    """Of a failure."""
    attempt: int = 0
    """The one that its result came of."""
    report: dict[str, JsonValue] | None = None
    token: str | None = None
    """Of a success in training: what was learned is read by it."""
    sha256: str = ""
    """Of what was made."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at an item."""

    round: int
    number: int
    worker: str
    claimed: datetime
    ended: datetime | None
    cause: str
    """How it ended: succeeded, failed, cancelled, lost or released; empty: it has not."""
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list."""

    next: str | None
    """Where the next page begins; None: this was the last one."""


@dataclass(frozen=True, slots=True)
class JobPage(Page):
    jobs: tuple[JobView, ...]


@dataclass(frozen=True, slots=True)
class ItemPage(Page):
    items: tuple[ItemView, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What a success has made."""

    payload: bytes
    result: ResultRecord
    etag: str
    """Of the version that was read: `reading.stands` says whether it still is the one."""
