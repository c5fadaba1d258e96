"""The workers as a supervisor sees them: who claimed what, who lives, and what they are at."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.errors import DamagedRecordError
from services.ledger import keys as layout
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.leases import break_lease, is_expired, read_lease, remove_lease
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, HeldAttempt, LeaseRecord, unpack

_REMEMBERED = 100_000
"""Claims whose workers are kept in memory."""

_KEPT = 10
"""Leases' lengths after which a lease that nobody will renew is removed."""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker whose lease nobody may break yet."""

    renewed: datetime
    attempts: tuple[HeldAttempt, ...]

    def has_attempt(self, keys: JobKeys, place: ItemRef, number: int) -> bool:
        wanted = (keys.tenant, keys.job, place.round, place.index, number)
        return any(
            (held.tenant, held.job, held.round, held.index, held.number) == wanted
            for held in self.attempts
        )


class WorkerRegistry:
    """Each lease is read at most once between two calls of `look_again`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claimants: dict[str, str] = {}
        self._seen: dict[str, LiveWorker | None] = {}
        self._left: set[str] = set()

    def refresh(self) -> None:
        """Forget how the workers stood."""
        self._seen.clear()
        self._left.clear()

    def claimant(self, claim: str) -> str | None:
        """The worker who made a claim, by its key; empty if nobody can tell, as it is damaged.
        None: it is gone, and so is its job.
        """
        known = self._claimants.get(claim)
        if known is not None:
            return known
        if not (found := self._ledger.find(claim)):
            return None
        try:
            worker = unpack(claim, found[1], ClaimRecord)[0].worker
        except DamagedRecordError:
            worker = ""
        if len(self._claimants) >= _REMEMBERED:
            self._claimants.clear()
        self._claimants[claim] = worker
        return worker

    def find_live(self, worker: str) -> LiveWorker | None:
        """A worker that lives. If its lease is over, it is broken first: from then on the worker is
        dead, and will know it.
        """
        if worker not in self._seen:
            self._seen[worker] = self._look_at(worker) if worker else None
        return self._seen.get(worker)

    def has_released(self, worker: str) -> bool:
        """Whether one that does not live has ended by itself, and was not killed."""
        return worker in self._left

    def _look_at(self, worker: str) -> LiveWorker | None:
        while found := read_lease(self._ledger, worker):
            head, record = found
            if record.state == "released":
                self._left.add(worker)
            if record.state != "held":
                return None
            if not is_expired(head, record):
                return LiveWorker(head.last_modified, record.attempts)
            if break_lease(self._ledger, head, record):
                return None
        return None


def all_leases(ledger: Ledger) -> Iterator[LeaseRecord]:
    """Of every worker that lives, as far as is known: for those who look at progress."""
    workers = [
        head.key[len(layout.WORKERS_FOLDER) :] for head in ledger.heads(layout.WORKERS_FOLDER)
    ]
    for found in ledger.gather(lambda worker: read_lease(ledger, worker), workers):
        if found and found[1].state == "held" and not is_expired(*found):
            yield found[1]


def remove_dead_leases(ledger: Ledger) -> None:
    """Break leases that are long over, and remove those that were broken or released long ago."""
    long = timedelta(seconds=_KEPT * ledger.settings.lease_s)
    for head in ledger.heads(layout.WORKERS_FOLDER):
        if head.age <= long:
            continue
        found = read_lease(ledger, head.key[len(layout.WORKERS_FOLDER) :])
        if found is None or found[1].state != "held":
            remove_lease(ledger, head)
        elif is_expired(*found):
            break_lease(ledger, *found)
