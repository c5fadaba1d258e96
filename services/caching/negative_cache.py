"""A negative cache: recent errors by key, so that repeated requests do not reach the store."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import FIFOCache

from dti_engine.errors import DTIError

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
