"""Rate limiting: token buckets of tenants and addresses, held in the memory of one process."""

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


class _Buckets:
    """A token bucket per name, each with a rate and a capacity of its own. Thread-safe."""

    def __init__(self, clock: Callable[[], float], max_names: int) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: LRUCache[str, _Bucket] = LRUCache(max_names)

    def take(self, name: str, rate: float, capacity: float, *, cost: float = 1.0) -> float:
        """Take a request from a bucket.

        Returns:
            0.0 if the bucket holds one; otherwise the number of seconds to wait.
        """
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(name) or _Bucket(capacity, now)
            # The cap comes after the refill, so that a lowered limit applies at once.
            requests = min(bucket.requests + (now - bucket.updated_at) * rate, capacity)
            admitted = requests >= 1
            # A refused request costs nothing: a client that tries too often still gets its rate.
            self._buckets[name] = _Bucket(requests - cost if admitted else requests, now)
            return 0.0 if admitted else (1 - requests) / rate


class RateLimiter:
    """A token bucket per tenant: it holds `burst` requests and refills at a constant rate.

    Thread-safe. Each process counts for itself, so n processes together admit n times the rate.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_tenants: int = MAX_TENANTS
    ) -> None:
        self._buckets = _Buckets(clock, max_tenants)

    def acquire(self, tenant: str, limits: Limits) -> float:
        """Take one request from the tenant's bucket.

        Returns:
            0.0 if the request is admitted; otherwise the number of seconds to wait.
        """
        return self._buckets.take(tenant, limits.requests_per_second, float(limits.burst))


class AttemptLimiter:
    """A token bucket per address for requests with an unknown key. Thread-safe.

    Only failures cost something. Each process counts for itself.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Admit `rate` failures a second from an address, and `burst` at once."""
        self._rate, self._burst = rate, float(burst)
        self._buckets = _Buckets(clock, MAX_TENANTS)

    def wait_s(self, address: str) -> float:
        """Return 0.0 if an address may try a key, otherwise the number of seconds to wait."""
        return self._buckets.take(address, self._rate, self._burst, cost=0.0)

    def record_failure(self, address: str) -> None:
        """Count a request with an unknown key."""
        self._buckets.take(address, self._rate, self._burst)
