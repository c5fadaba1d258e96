"""What the processes of a simulated service did and were told, for `promises` to judge."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.contracts.jobs import ItemState
from services.ledger.attempts import Attempt
from services.ledger.keys import ItemRef

Claimed = tuple[str, str, ItemRef, int]
"""Tenant, job, item and number of an attempt."""


@dataclass(frozen=True, slots=True)
class Start:
    """A worker began an attempt."""

    time: float
    process: str
    worker: str
    attempt: Claimed
    step: int
    """Where it went on from."""
    alone: bool
    beside: int
    """Attempts that it had in hand besides."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint was acknowledged."""

    time: float
    attempt: Claimed
    step: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's call returned."""

    asked: float
    time: float
    what: str
    """submit, cancel, retry, delete item, delete job, delete tenant"""
    tenant: str
    job: str = ""
    index: int = -1
    key: str = ""
    """Of a submission: its Idempotency-Key."""
    count: int = 0
    """Items submitted, or retried."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A client saw how a job's items stood."""

    asked: float
    time: float
    tenant: str
    job: str
    states: tuple[ItemState, ...]


@dataclass
class History:
    """Everything of one world, in the order of time."""

    starts: list[Start] = field(default_factory=list)
    saved: dict[tuple[str, str, ItemRef], list[Saved]] = field(
        default_factory=lambda: defaultdict(list)
    )
    answers: list[Answer] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    last_kill: tuple[float, str, Sequence[Claimed]] | None = None
    """When which busy worker was killed after all faults had stopped, and what it had in hand."""
    wrong: list[str] = field(default_factory=list)
    """What a process noticed by itself."""


def claimed(attempt: Attempt) -> Claimed:
    return attempt.keys.tenant, attempt.keys.job, attempt.item_ref, attempt.number
