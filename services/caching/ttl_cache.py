"""What was read lately, so that not every request asks the store: for so long, and no longer.

Of many who ask for the same thing at once, one reads and the others wait for it. What was not found
is remembered apart, so that whoever tries names at random drives out nothing that was found.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.errors import UnavailableError

V = TypeVar("V")

ENTRIES = 10_000
"""Of each kind, found and not found."""

RETRY = 5.0
"""Seconds: while a store is in trouble, it is asked again that often."""


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[V]):
    """What was read, and when."""

    value: V | None
    """None: there was nothing."""
    asked: float
    """When the read began: it may be older than its end, never newer."""
    until: float
    """Till when it is not asked for again."""
    in_trouble: bool = False
    """The store did not answer when it was asked for again."""


class TTLCache(Generic[V]):
    """By name; safe to share between threads. Times in seconds of `clock`."""

    def __init__(
        self,
        read: Callable[[str], V | None],
        *,
        seconds: float,
        in_trouble: float,
        entries: int = ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """What was found `in_trouble` seconds ago or less is good enough while `read` raises
        UnavailableError; otherwise, what is `seconds` old.
        """
        self._read = read
        self._seconds = seconds
        self._in_trouble = max(seconds, in_trouble)
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[str, CacheEntry[V]] = OrderedDict()
        self._missing: OrderedDict[str, CacheEntry[V]] = OrderedDict()
        self._flights: dict[str, Future[None]] = {}

    def get(self, name: str) -> CacheEntry[V]:
        """What there is of that name. Raises: what reading it does."""
        while True:
            with self._lock:
                kept, now = self._kept(name), self._clock()
                flight = self._flights.get(name)
                if kept and now < kept.until:
                    return kept
                if kept and flight and kept.in_trouble and now < kept.asked + self._in_trouble:
                    return kept  # Who asks a store in trouble may wait for long: one does.
                if flight is None:
                    ours = self._flights[name] = Future[None]()
                    break
            flight.result()  # Then look again: it may have taken too long for us.
        try:
            got = self._ask(name, kept)
        except BaseException as error:
            self._land(name, ours, error)
            raise
        self._land(name, ours, None, got)
        return got

    def _kept(self, name: str) -> CacheEntry[V] | None:
        for kind in (self._found, self._missing):
            if name in kind:
                kind.move_to_end(name)
                return kind[name]
        return None

    def _ask(self, name: str, kept: CacheEntry[V] | None) -> CacheEntry[V]:
        asked = self._clock()
        try:
            return CacheEntry(self._read(name), asked, asked + self._seconds)
        except UnavailableError:
            if kept is None or kept.value is None:
                raise
            end, now = kept.asked + self._in_trouble, self._clock()
            if now >= end:
                raise
            return CacheEntry(kept.value, kept.asked, min(end, now + RETRY), in_trouble=True)

    def _land(
        self,
        name: str,
        flight: "Future[None]",
        error: BaseException | None,
        got: CacheEntry[V] | None = None,
    ) -> None:
        with self._lock:
            if got:
                kind, other = self._found, self._missing
                if got.value is None:
                    kind, other = other, kind
                other.pop(name, None)
                kind[name] = got
                kind.move_to_end(name)
                while len(kind) > self._entries:
                    kind.popitem(last=False)
            del self._flights[name]
        # After it is kept: whoever waited finds it. What ended this thread alone is not for them.
        if isinstance(error, Exception):
            flight.set_exception(error)
        else:
            flight.set_result(None)
