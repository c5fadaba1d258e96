"""The quota of open items per tenant, counted from the queue and cached for a few seconds.

Two processes may each admit a last job at the same moment: the quota is a guard, not a ledger.
"""

import threading
import time
from collections.abc import Callable
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


class Quotas:
    """Checks the quotas of open items. Thread-safe."""

    def __init__(
        self, ledger: Ledger, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._counts: TTLCache[str, _OpenItems] = TTLCache(_MAX_TENANTS, ttl_s, timer=clock)

    def check(self, principal: Principal, num_items: int) -> None:
        """Check that a tenant may submit so many more items.

        Raises:
            QuotaError: The tenant would have too many open items.
        """
        tenant, limit = principal.tenant, principal.limits.open_items
        with self._lock:
            known = self._counts.get(tenant)
        # A cached count only ever admits: jobs may have ended since, so that a refusal needs a new
        # one.
        if known is not None and known.count + num_items <= limit:
            return
        # The size of a job takes one request and is an upper bound of its open items. The exact
        # count takes several requests per job, so it is made only if the bound exceeds the limit.
        count = self._count(tenant, self._size)
        if count + num_items > limit:
            count = self._count(tenant, self._open)
        if count + num_items > limit:
            raise QuotaError(
                f"{num_items} items were submitted while {count} are open, and the limit is "
                f"{limit}: wait until some have ended, or cancel a job",
                _RETRY_AFTER_S,
            )
        with self._lock:
            self._counts[tenant] = _OpenItems(count)

    def add(self, tenant: str, num_items: int) -> None:
        """Count items that were just submitted."""
        with self._lock:
            if known := self._counts.get(tenant):
                known.count += num_items

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
