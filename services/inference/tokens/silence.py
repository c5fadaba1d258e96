"""Whether a store answers, as far as is known: while it does not, few wait for it."""

import threading
from collections.abc import Callable

_NEVER = float("-inf")


class Silence:
    """Safe to share between threads."""

    def __init__(self, retry: float, clock: Callable[[], float]) -> None:
        """While the store is silent, one asks it every `retry` seconds of `clock`."""
        self._retry, self._clock = retry, clock
        self._lock = threading.Lock()
        self._since = self._until = _NEVER

    def allows(self) -> bool:
        """Whether to ask now. Who may ask a silent store is the only one for a while."""
        with self._lock:
            now = self._clock()
            if now < self._until:
                return False
            if self._until > _NEVER:
                self._until = now + self._retry
            return True

    def has_begun_since(self, moment: float) -> bool:
        """Whether it is silent, and was not at that moment."""
        with self._lock:
            return self._since > moment

    def begin(self) -> None:
        """It did not answer."""
        with self._lock:
            now = self._clock()
            if self._since == _NEVER:
                self._since = now
            self._until = now + self._retry

    def end(self) -> None:
        """It did."""
        with self._lock:
            self._since = self._until = _NEVER
