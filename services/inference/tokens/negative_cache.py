"""Why tokens were refused lately, so that who asks again and again does not reach the store.

Whether a store answers, as far as is known: while it does not, few wait for it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

from dti_engine.errors import DTIError
from services.inference.tokens.token import Key

_ENTRIES = 10_000
"""Apart from tokens: whoever tries ids at random drives out none."""


class NegativeCache:
    """Safe to share between threads. Times in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._refusals: OrderedDict[Key, tuple[DTIError, float]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        """Whether it was refused a short while ago, and not found since."""
        return key in self._refusals

    def check(self, key: Key) -> None:
        """Raises: what it was refused with, while that holds."""
        refusal = self._refusals.get(key)
        if refusal and self._clock() < refusal[1]:
            raise _copy(refusal[0])

    def add(self, key: Key, error: DTIError, seconds: float) -> None:
        """It is refused for so long."""
        with self._lock:
            self._refusals[key] = _copy(error), self._clock() + seconds
            self._refusals.move_to_end(key)
            while len(self._refusals) > _ENTRIES:
                self._refusals.popitem(last=False)

    def discard(self, key: Key) -> None:
        """It was found."""
        with self._lock:
            self._refusals.pop(key, None)


def _copy(error: DTIError) -> DTIError:
    """Without what it came through: each thread that raises it writes a traceback of its own."""
    return type(error)(*error.args)


_NEVER = float("-inf")


class CircuitBreaker:
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
