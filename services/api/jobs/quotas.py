"""How many items of a tenant are open: what quotas go by. Counted from the queue, and the count is
good for a few seconds; two processes may each let the last ones in.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from services.auth.authenticator import Principal
from services.errors import DamagedRecordError, DeletedError, QuotaError, UnknownJobError
from services.ledger.jobs import read_job
from services.ledger.keys import QUEUE_FOLDER, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.ledger.queue import queued_jobs

_TENANTS = 10_000
_RETRY = "30"
_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


class Quotas:
    """Of one process; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When, and how many."""

    def check(self, caller: Principal, items: int) -> None:
        """Raises: QuotaError if so many more would be too many."""
        limit = caller.limits.open_items
        if (known := self._known(caller.tenant)) is not None and known + items <= limit:
            return
        # Jobs' sizes are one request each, and never too few. How many have ended takes several.
        found = self._count(caller.tenant, self._size)
        if found + items > limit:
            found = self._count(caller.tenant, self._open)
        if found + items > limit:
            raise QuotaError(
                f"{found} items are open and {items} more were asked for: {limit} are allowed at a "
                "time. Wait until some have ended, or cancel a job",
                _RETRY,
            )
        self._note(caller.tenant, self._clock(), found)

    def add(self, tenant: str, items: int) -> None:
        """They are open from now on."""
        with self._lock:
            if counted := self._counted.get(tenant):
                self._counted[tenant] = (counted[0], counted[1] + items)

    def _known(self, tenant: str) -> int | None:
        with self._lock:
            when, count = self._counted.get(tenant, (float("-inf"), 0))
        return count if self._clock() - when < self._seconds else None

    def _note(self, tenant: str, when: float, count: int) -> None:
        with self._lock:
            self._counted[tenant] = (when, count)
            self._counted.move_to_end(tenant)
            if len(self._counted) > _TENANTS:
                self._counted.popitem(last=False)

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
