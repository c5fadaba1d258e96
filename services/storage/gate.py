"""The gate before a store: while the store is silent, calls fail at once instead of waiting for it.

Each call that waits for a silent store holds a thread, and a process has few. A store that refuses
connections, or answers errors, costs less: its calls fail by themselves.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from services.errors import UnavailableError

_PING_LIMIT_S = 3.0
"""Time without an answer to a ping after which the gate counts as shut."""


class StoreGate:
    """A circuit breaker before a store: shut while the store does not answer. Thread-safe.

    The outcomes of calls only raise a doubt, since one call can fail by its own fault, such as a
    listing that is too large. A doubt has `StoreMonitor` ping the store, and the ping decides. So
    the monitor alone tries a silent store, and no caller waits for it.
    """

    def __init__(
        self, *, is_shut: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a gate; `is_shut` for a store that is not known to answer yet."""
        self._clock = clock
        self._is_shut = is_shut
        self._ping_began: float | None = None
        self._answered_at = clock()
        self._doubt = threading.Event()

    @property
    def is_shut(self) -> bool:
        """Return whether calls fail now, because the last ping failed or takes too long."""
        began = self._ping_began
        return self._is_shut or (began is not None and self._clock() - began > _PING_LIMIT_S)

    def check(self) -> None:
        """Raise UnavailableError if the gate is shut."""
        if self.is_shut:
            raise UnavailableError("the store does not answer; nothing was sent: try again later")

    def record_answer(self) -> None:
        """Note that the store has answered a call, whatever the answer was."""
        self._answered_at = self._clock()

    def record_failure(self) -> None:
        """Note that the store has not answered a call, so that it is pinged at once."""
        self._doubt.set()

    def wait_for_doubt(self, timeout_s: float) -> bool:
        """Wait for a failed call; return whether there was one, or no answer during the timeout."""
        has_failed = self._doubt.wait(timeout_s)
        self._doubt.clear()
        return has_failed or self._clock() - self._answered_at >= timeout_s

    @contextmanager
    def ping(self) -> Generator[None]:
        """Open the gate if the body returns, and shut it if it raises UnavailableError."""
        self._ping_began = self._clock()
        try:
            yield
        except UnavailableError:
            self._is_shut = True
            raise
        else:
            self._is_shut = False
            self.record_answer()
        finally:
            self._ping_began = None
