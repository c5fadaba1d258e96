"""The virtual clock: due calls in an order that only the seed decides, and a log.

A call takes no virtual time, and nothing interrupts it.
"""

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any

_REMEMBERED = 200_000
"""Entries of the log that are kept, the latest."""


class VirtualClock:
    """Seconds from 0 on, and the calls that are due."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.entries: deque[tuple[float, str, str, tuple[Any, ...]]] = deque(maxlen=_REMEMBERED)
        """The log: time, process, event, details."""
        self._due: list[tuple[float, float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, seconds: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action` outside all tasks, in so many seconds.

        Calls that are due at the same time come in a random order.
        """
        self._made += 1
        heappush(
            self._due, (self.now + seconds, self.random.random(), self._made, action, arguments)
        )

    def schedule(self) -> str:
        """Return the log, one line per entry."""
        return "\n".join(
            f"{time:12.6f} {name:12} {event:8} {' '.join(map(str, details))}"
            for time, name, event, details in self.entries
        )

    def step(self, until: float = inf) -> bool:
        """Go on to the next due call, unless it is after `until`; return whether there was one."""
        due = self._due
        if due and due[0][0] <= until:
            self.now, _, _, action, arguments = heappop(due)
            action(*arguments)
            return True
        if until < inf:
            self.now = max(self.now, until)
        return False

    def forget(self) -> None:
        """Drop all due calls."""
        self._due.clear()
