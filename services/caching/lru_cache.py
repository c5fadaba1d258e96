"""An LRU cache bounded by bytes."""

import time
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from cachetools import TLRUCache


class Sized(Protocol):
    """A value that knows its memory use, which never changes."""

    @property
    def num_bytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class ByteLRU(TLRUCache[K, V], Generic[K, V]):
    """An LRU cache bounded by bytes; the caller holds a lock.

    `get` counts as use. `currsize` is the number of bytes in use.
    """

    def __init__(
        self,
        capacity_bytes: int,
        *,
        ttl_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache, whose entries expire `ttl_s` after they were last stored."""
        super().__init__(
            capacity_bytes,
            ttu=lambda key, value, now: now + ttl_s,
            timer=clock,
            getsizeof=lambda value: value.num_bytes,
        )

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Store a value and return what was evicted: the value itself if it is too large."""
        # The old value must not count towards the room for the new one.
        self.pop(key, None)
        # It would evict everything else, and then not fit all the same.
        if value.num_bytes > self.maxsize:
            return [(key, value)]
        # `with self.timer` stops the clock, so that nothing expires halfway.
        with self.timer:
            evicted = list(self.expire())
            # The base class evicts in `__setitem__` as well, but does not say what.
            while self.currsize + value.num_bytes > self.maxsize:
                evicted.append(self.popitem())
            self[key] = value
        return evicted
