"""The progress of running items, as workers report it in their leases."""

import threading
import time
from collections.abc import Callable

from cachetools import TTLCache
from pydantic import JsonValue

from services.ledger.ledger import Ledger
from services.ledger.workers import all_leases

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
