"""Rate limiting: one token bucket per tenant, held in the memory of one process."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cachetools import LRUCache

from services.auth.tenants import Limits

MAX_TENANTS = 10_000
"""The number of buckets held; an evicted tenant starts again with a full bucket."""


class _Bucket(NamedTuple):
    requests: float
    """The number of requests that the bucket holds, fractions included."""
    updated_at: float


class RateLimiter:
    """A token bucket per tenant: it holds `burst` requests and refills at a constant rate.

    Thread-safe. Each process counts for itself, so n processes together admit n times the rate.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_tenants: int = MAX_TENANTS
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: LRUCache[str, _Bucket] = LRUCache(max_tenants)

    def acquire(self, tenant: str, limits: Limits) -> float:
        """Take one request from the tenant's bucket.

        Returns:
            0.0 if the request is admitted; otherwise the number of seconds to wait.
        """
        rate, capacity = limits.requests_per_second, float(limits.burst)
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(tenant) or _Bucket(capacity, now)
            # The cap comes after the refill, so that a lowered limit applies at once.
            requests = min(bucket.requests + (now - bucket.updated_at) * rate, capacity)
            admitted = requests >= 1
            # A refused request costs nothing: a client that tries too often still gets its rate.
            self._buckets[tenant] = _Bucket(requests - 1 if admitted else requests, now)
            return 0.0 if admitted else (1 - requests) / rate
