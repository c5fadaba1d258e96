"""How often each tenant may ask: a bucket of `burst` requests that fills by so many a second."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from services.auth.tenants import Limits

TENANTS = 10_000
"""That are counted at a time: whoever has asked least lately is forgotten, so begins full again."""


class RateLimiter:
    """Of one process; safe to share between threads. `clock` in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, tenants: int = TENANTS
    ) -> None:
        self._clock = clock
        self._tenants = tenants
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Requests that are left, and when that was counted."""

    def take(self, tenant: str, limits: Limits) -> float:
        """Seconds to wait, and nothing is taken; 0: go on, one is taken."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.get(tenant, (float(limits.burst), now))
            left = min(left + (now - then) * limits.requests_per_second, float(limits.burst))
            wait = 0.0 if left >= 1 else (1 - left) / limits.requests_per_second
            self._buckets[tenant] = (left if wait else left - 1, now)
            self._buckets.move_to_end(tenant)
            if len(self._buckets) > self._tenants:
                self._buckets.popitem(last=False)
            return wait
