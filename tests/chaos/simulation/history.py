"""The history of a simulated service: what its processes did, for `invariants` to check."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.contracts.jobs import ItemState
from services.ledger.attempts import Attempt
from services.ledger.keys import ItemRef

AttemptKey = tuple[str, str, ItemRef, int]
"""Tenant, job, item and number of an attempt."""


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """A worker started an attempt."""

    time: float
    process: str
    worker: str
    attempt: AttemptKey
    step: int
    """The step of the checkpoint that it resumed from."""
    isolated: bool
    others: int
    """Other attempts that its worker ran then."""


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint was acknowledged."""

    time: float
    attempt: AttemptKey
    step: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A client's operation completed."""

    invoked_at: float
    time: float
    operation: str
    """submit, cancel, retry, delete item, erase item, delete job, delete tenant"""
    tenant: str
    job: str = ""
    index: int = -1
    key: str = ""
    """The idempotency key of a submission."""
    count: int = 0
    """Items submitted or retried."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A client saw the states of a job's items."""

    invoked_at: float
    time: float
    tenant: str
    job: str
    states: tuple[ItemState, ...]


@dataclass
class History:
    """Everything that happened in one world, in the order of time."""

    starts: list[AttemptStart] = field(default_factory=list)
    checkpoints: dict[tuple[str, str, ItemRef], list[SavedCheckpoint]] = field(
        default_factory=lambda: defaultdict(list)
    )
    completions: list[Completion] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    last_kill: tuple[float, str, Sequence[AttemptKey]] | None = None
    """Time, worker and running attempts of the kill after the faults."""
    anomalies: list[str] = field(default_factory=list)
    """Errors that a process itself noticed."""


def attempt_key(attempt: Attempt) -> AttemptKey:
    """Return the key of a worker's attempt."""
    return attempt.keys.tenant, attempt.keys.job, attempt.item_ref, attempt.number
