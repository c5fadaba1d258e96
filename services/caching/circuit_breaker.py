"""A circuit breaker: while a dependency fails, only one request in a while reaches it."""

import threading
from collections.abc import Callable

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
