"""The quota of open items per tenant, counted from the queue and cached for a few seconds.

The items of a job are reserved before it is submitted, so that a process never admits more than the
quota. Other processes see a job when they count the next time: n processes that are asked at once
may together admit n times what was left.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import TTLCache

from services.auth.authenticator import Principal
from services.errors import DamagedRecordError, DeletedError, QuotaError, UnknownJobError
from services.ledger.jobs import read_job
from services.ledger.keys import QUEUE_FOLDER, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.ledger.queue import queued_jobs

_MAX_TENANTS = 10_000
_RETRY_AFTER_S = "30"
_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


@dataclass
class _OpenItems:
    """A count that submissions increase in place, so that they do not extend its TTL."""

    count: int


@dataclass(eq=False)
class _Recount:
    """A count of the store that is being made."""

    tenant: str
    submitted: int = 0
    """Items of jobs that were submitted since it began, which it may have missed."""


class Quotas:
    """Reserves open items within the quotas of tenants. Thread-safe."""

    def __init__(
        self, ledger: Ledger, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._counts: TTLCache[str, _OpenItems] = TTLCache(_MAX_TENANTS, ttl_s, timer=clock)
        self._reserved = Counter[str]()
        """Items of each tenant that are being submitted."""
        self._recounts: set[_Recount] = set()

    @contextmanager
    def reserve(self, principal: Principal, num_items: int) -> Generator[Callable[[], None]]:
        """Reserve items while a job is submitted.

        Yields:
            A function to call when the job has been submitted. Without it, the items were not used.

        Raises:
            QuotaError: The tenant would have too many open items.
        """
        tenant = principal.tenant
        self._take(principal, num_items)
        used = False

        def submitted() -> None:
            nonlocal used
            used = True

        try:
            yield submitted
        finally:
            with self._lock:
                self._reserved[tenant] -= num_items
                if not self._reserved[tenant]:
                    del self._reserved[tenant]
                if used:
                    self._add(tenant, num_items)

    def _add(self, tenant: str, num_items: int) -> None:
        if known := self._counts.get(tenant):
            known.count += num_items
        for recount in self._recounts:
            if recount.tenant == tenant:
                recount.submitted += num_items

    def _take(self, principal: Principal, num_items: int) -> None:
        """Reserve items, or raise QuotaError."""
        tenant, limit = principal.tenant, principal.limits.open_items
        with self._lock:
            known = self._counts.get(tenant)
            # A cached count only ever admits: jobs may have ended since, so that a refusal needs a
            # new one.
            if known and known.count + self._reserved[tenant] + num_items <= limit:
                self._reserved[tenant] += num_items
                return
        # The size of a job takes one request and is an upper bound of its open items. The exact
        # count takes several requests per job, so it is made only if the bound exceeds the limit.
        for count_job in (self._size, self._open):
            if (count := self._try(tenant, num_items, limit, count_job)) is None:
                return
        raise QuotaError(
            f"{num_items} items were submitted while {count} are open, and the limit is "
            f"{limit}: wait until some have ended, or cancel a job",
            _RETRY_AFTER_S,
        )

    def _try(
        self, tenant: str, num_items: int, limit: int, count_job: Callable[[JobKeys], int]
    ) -> int | None:
        """Count the store and reserve the items; return the count if they are too many."""
        recount = _Recount(tenant)
        with self._lock:
            self._recounts.add(recount)
        try:
            count = self._count(tenant, count_job)
        finally:
            with self._lock:
                self._recounts.discard(recount)
        with self._lock:
            # Jobs that were submitted during the count may be in it twice now: too many rather
            # than too few, until the next count.
            count += recount.submitted
            if count + self._reserved[tenant] + num_items > limit:
                return count + self._reserved[tenant]
            self._counts[tenant] = _OpenItems(count)
            self._reserved[tenant] += num_items
            return None

    def _count(self, tenant: str, count: Callable[[JobKeys], int]) -> int:
        jobs = [
            JobKeys(tenant, job)
            for pool in self._ledger.folders(QUEUE_FOLDER)
            for job in queued_jobs(self._ledger, pool, tenant)
        ]
        return sum(self._ledger.gather(count, jobs))

    def _size(self, keys: JobKeys) -> int:
        try:
            return read_job(self._ledger, keys)[1].count
        except _GONE:
            return 0

    def _open(self, keys: JobKeys) -> int:
        try:
            counts = view_job(self._ledger, keys.tenant, keys.job).counts
        except _GONE:
            return 0
        return counts.queued + counts.running
