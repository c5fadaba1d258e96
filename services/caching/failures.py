"""Remembered failures: a negative cache of errors by key, and a circuit breaker.

Both keep repeated requests from a store that has just answered no, or does not answer.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import FIFOCache

from dti_engine.errors import DTIError

_NEVER = float("-inf")


class CircuitBreaker:
    """Closed while requests succeed; open after a failure, until the next success. Thread-safe."""

    def __init__(self, retry_s: float, clock: Callable[[], float]) -> None:
        """Create a closed breaker, which when open lets one request through every `retry_s`."""
        self._retry_s, self._clock = retry_s, clock
        self._lock = threading.Lock()
        self._opened_at = self._retry_at = _NEVER

    def allows_request(self) -> bool:
        """Return whether to send a request now.

        An open breaker that returns True allows no other request for the next `retry_s`.
        """
        with self._lock:
            now = self._clock()
            if now < self._retry_at:
                return False
            # Half-open: this caller tries, and all others wait for its result.
            if self._retry_at > _NEVER:
                self._retry_at = now + self._retry_s
            return True

    def opened_since(self, time: float) -> bool:
        """Return whether the breaker is open and opened after the given time."""
        with self._lock:
            return self._opened_at > time

    def record_failure(self) -> None:
        """Open the breaker: a request failed."""
        with self._lock:
            now = self._clock()
            if self._opened_at == _NEVER:
                self._opened_at = now
            self._retry_at = now + self._retry_s

    def record_success(self) -> None:
        """Close the breaker: a request succeeded."""
        with self._lock:
            self._opened_at = self._retry_at = _NEVER


_MAX_ENTRIES = 10_000

K = TypeVar("K", bound=Hashable)


class NegativeCache(Generic[K]):
    """Recent errors by key. Thread-safe.

    It has a bound of its own, so that a client that tries random keys evicts no found value.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Create an empty cache. `clock` returns the time in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._errors: FIFOCache[K, tuple[DTIError, float]] = FIFOCache(_MAX_ENTRIES)

    def __contains__(self, key: K) -> bool:
        """Return whether the last thing known of a key is an error, even one that has expired."""
        return key in self._errors

    def check(self, key: K) -> None:
        """Raise the error of a key, unless it has expired."""
        with self._lock:
            error, expires = self._errors.get(key, (None, 0.0))
        # A copy, as in `add`: raising writes a traceback, whose frames would stay in memory.
        if error and self._clock() < expires:
            raise _copy(error)

    def add(self, key: K, error: DTIError, ttl_s: float) -> None:
        """Remember an error for `ttl_s` seconds."""
        with self._lock:
            self._errors[key] = _copy(error), self._clock() + ttl_s

    def discard(self, key: K) -> None:
        """Forget the error of a key, whose value was found."""
        with self._lock:
            self._errors.pop(key, None)


def _copy(error: DTIError) -> DTIError:
    """Return an equal error without a traceback; each thread that raises it writes its own."""
    return type(error)(*error.args)
