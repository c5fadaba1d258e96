"""A TTL cache of records that serves stale records while the store is unavailable."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache

from services.caching.single_flight import SingleFlight
from services.errors import UnavailableError

V = TypeVar("V")

MAX_ENTRIES = 10_000
"""The default number of entries: so many found names, and as many unknown ones."""

RETRY_S = 5.0
"""The time between two reads of a record while the store is unavailable."""


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[V]):
    """The result of a read, and its time."""

    value: V | None
    """None if the name is unknown."""
    read_at: float
    """When the read began: the record may have changed since, at any later time."""
    fresh_until: float
    """When to read it again."""
    is_stale: bool = False
    """True if the store was unavailable when the record was to be read again."""


class StaleWhileErrorCache(Generic[V]):
    """A TTL cache by name with single flight. Thread-safe.

    The cache holds unknown names apart from found ones, so that a client that tries random names
    evicts none of the names that are in use.
    """

    def __init__(
        self,
        read: Callable[[str], V | None],
        *,
        ttl_s: float,
        max_stale_s: float,
        max_entries: int = MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache in front of `read`, which returns None for an unknown name.

        Args:
            read: Reads a record. UnavailableError from it means that the store is unavailable.
            ttl_s: How long a record is fresh.
            max_stale_s: How old a record may be that is served while the store is unavailable.
            max_entries: The number of found names, and of unknown names, to hold.
            clock: Returns the time in seconds.
        """
        self._read = read
        self._ttl_s = ttl_s
        self._max_stale_s = max(ttl_s, max_stale_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._found: LRUCache[str, CacheEntry[V]] = LRUCache(max_entries)
        self._unknown: LRUCache[str, CacheEntry[V]] = LRUCache(max_entries)
        self._flights: SingleFlight[str, CacheEntry[V]] = SingleFlight()

    def get(self, name: str) -> CacheEntry[V]:
        """Return the entry of a name, and read it first if needed.

        Raises:
            UnavailableError: The store is unavailable, and no record is recent enough.
            Exception: Whatever else `read` raises.
        """
        was_read_here = False

        def read() -> CacheEntry[V]:
            nonlocal was_read_here
            was_read_here = True
            return self._refresh(name)

        while True:
            if entry := self._find(name):
                return entry
            entry = self._flights.run(name, read)
            # A read that another thread began may have taken longer than its result is fresh.
            if was_read_here or self._clock() < entry.fresh_until:
                return entry

    def forget_old(self) -> None:
        """Drop entries that are too old to be served in any case."""
        oldest = self._clock() - self._max_stale_s
        with self._lock:
            for entries in (self._found, self._unknown):
                old = [name for name, entry in entries.items() if entry.read_at < oldest]
                for name in old:
                    del entries[name]

    def find_fresh(self, name: str) -> CacheEntry[V] | None:
        """Return the entry of a name if it is fresh, without a read."""
        entry = self._lookup(name)
        return entry if entry and self._clock() < entry.fresh_until else None

    def find(self, name: str) -> CacheEntry[V] | None:
        """Return the entry of a name however old it is, without a read."""
        return self._lookup(name)

    def _lookup(self, name: str) -> CacheEntry[V] | None:
        with self._lock:
            return self._found.get(name) or self._unknown.get(name)

    def _find(self, name: str) -> CacheEntry[V] | None:
        """Return the entry of a name if it may be served without waiting for the store."""
        entry, now = self._lookup(name), self._clock()
        if entry is None or now < entry.fresh_until:
            return entry
        # A read of an unavailable store may take long, so only one thread waits for it.
        is_retrying = entry.is_stale and self._flights.is_running(name)
        return entry if is_retrying and now < entry.read_at + self._max_stale_s else None

    def _refresh(self, name: str) -> CacheEntry[V]:
        """Read a record and store its entry, unless another thread has just done so."""
        entry, read_at = self._lookup(name), self._clock()
        if entry and read_at < entry.fresh_until:
            return entry
        try:
            new = CacheEntry(self._read(name), read_at, read_at + self._ttl_s)
        except UnavailableError:
            # A name that was unknown is not served stale: it may have been created since.
            if entry is None or entry.value is None:
                raise
            end, now = entry.read_at + self._max_stale_s, self._clock()
            if now >= end:
                raise
            new = CacheEntry(entry.value, entry.read_at, min(end, now + RETRY_S), is_stale=True)
        with self._lock:
            entries, others = self._found, self._unknown
            if new.value is None:
                entries, others = others, entries
            others.pop(name, None)
            entries[name] = new
        return new
