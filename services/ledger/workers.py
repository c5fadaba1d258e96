"""The workers that live, as other processes see them: their claims, attempts and progress."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from cachetools import TTLCache
from pydantic import JsonValue

from services.errors import DamagedRecordError
from services.ledger.keys import WORKERS_FOLDER, ItemRef, JobKeys
from services.ledger.leases import break_lease, is_expired, read_lease, remove_lease
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, HeldAttempt, LeaseRecord, unpack

_MAX_CLAIMS = 100_000
"""Claims whose workers are kept in memory."""

# Long enough for every supervisor to read whether the worker released it or was killed.
_KEPT_LEASES = 10
"""Durations of a lease after which a lease is removed that will not be renewed."""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker whose lease has not expired."""

    renewed_at: float
    """When it renewed its lease, by `Ledger.clock`, or a little earlier."""
    attempts: tuple[HeldAttempt, ...]

    def has_attempt(self, keys: JobKeys, item: ItemRef, number: int) -> bool:
        """Return whether the worker's lease names an attempt."""
        attempt = (keys.tenant, keys.job, item.round, item.index, number)
        return any(
            (held.tenant, held.job, held.round, held.index, held.number) == attempt
            for held in self.attempts
        )


class WorkerRegistry:
    """A cache of claims and leases. Each lease is read at most once between two refreshes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claimants: dict[str, str] = {}
        self._workers: dict[str, LiveWorker | None] = {}
        self._released: set[str] = set()

    def refresh(self) -> None:
        """Forget the leases. Claims never change, so that they are kept."""
        self._workers.clear()
        self._released.clear()

    def claimant(self, claim: str) -> str | None:
        """Return the worker that made a claim, by its key; None if the claim and its job are gone.

        The name is empty if the claim is damaged, so that the worker cannot be known.
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
        # All at once: they are read again when needed, with one request each.
        if len(self._claimants) >= _MAX_CLAIMS:
            self._claimants.clear()
        self._claimants[claim] = worker
        return worker

    def find_live(self, worker: str) -> LiveWorker | None:
        """Return a worker that lives, or None.

        If its lease has expired, it is broken first. From then on the worker is dead for all, and
        its next renewal tells it so: only then may others take its attempts.
        """
        # Once in a pass: all attempts of a worker are judged by the same lease.
        if worker not in self._workers:
            self._workers[worker] = self._read(worker) if worker else None
        return self._workers.get(worker)

    def has_released(self, worker: str) -> bool:
        """Return whether a worker that does not live released its lease, and was not killed."""
        return worker in self._released

    def _read(self, worker: str) -> LiveWorker | None:
        while True:
            # Before the request, so that the renewal seems no later than it was.
            begun = self._ledger.clock()
            if not (found := read_lease(self._ledger, worker)):
                return None
            head, record = found
            if record.state == "released":
                self._released.add(worker)
            if record.state != "held":
                return None
            if not is_expired(head, record):
                return LiveWorker(begun - head.age.total_seconds(), record.attempts)
            if break_lease(self._ledger, head, record):
                return None
            # It was renewed or broken in the meantime: read it again.


def all_leases(ledger: Ledger) -> Iterator[LeaseRecord]:
    """Yield the lease of every worker that lives, for readers of progress. It breaks none."""
    workers = [head.key[len(WORKERS_FOLDER) :] for head in ledger.heads(WORKERS_FOLDER)]
    for found in ledger.gather(lambda worker: read_lease(ledger, worker), workers):
        if found and found[1].state == "held" and not is_expired(*found):
            yield found[1]


def remove_dead_leases(ledger: Ledger) -> None:
    """Break leases that expired long ago, and remove those broken or released long ago."""
    long = timedelta(seconds=_KEPT_LEASES * ledger.settings.lease_s)
    for head in ledger.heads(WORKERS_FOLDER):
        if head.age <= long:
            continue
        found = read_lease(ledger, head.key[len(WORKERS_FOLDER) :])
        if found is None or found[1].state != "held":
            remove_lease(ledger, head)
        elif is_expired(*found):
            break_lease(ledger, *found)


ItemProgress = dict[int, dict[str, JsonValue]]
"""The reports of workers about the running items of a job, by index of the item."""

_AllProgress = dict[tuple[str, str], ItemProgress]
"""The same by tenant and job."""


class ProgressReader:
    """A TTL cache of all leases. Thread-safe.

    The leases are the same for all requests, so they are read once per TTL, not once per request.
    """

    def __init__(
        self, ledger: Ledger, ttl_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._cache: TTLCache[str, _AllProgress] = TTLCache(1, ttl_s, timer=clock)

    def read(self, tenant: str, job: str) -> ItemProgress:
        """Return the progress of a job's items; some of them may have ended since."""
        with self._lock:  # Concurrent callers wait for one read of the leases.
            progress = self._cache.get("all")
            if progress is None:
                progress = self._cache["all"] = self._read_leases()
        return progress.get((tenant, job), {})

    def _read_leases(self) -> _AllProgress:
        progress: _AllProgress = {}
        for lease in all_leases(self._ledger):
            for held in lease.attempts:
                progress.setdefault((held.tenant, held.job), {})[held.index] = held.progress
        return progress
