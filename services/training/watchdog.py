"""Who notices that a thread does not come back, from a call to a device most of all."""

import os
import sys
import threading
from collections.abc import Callable

STUCK = 70
"""What a process exits with that was ended so."""

_LOOKS = 20  # without a move
_LAST_WORDS = 10.0  # seconds that there are for them: the store may hang, too


class Watchdog:
    """While it is entered, ends this process once nothing has moved for too long.

    Nothing less helps: no exception reaches a thread that hangs in a call. Looks are counted, not
    seconds, so that a process that was stopped has not hung when it goes on.
    """

    def __init__(
        self,
        seconds: float,
        last_words: Callable[[], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """last_words: called before the end, in a thread of their own, which may hang."""
        self._pause, self._last_words, self._end = seconds / _LOOKS, last_words, end
        self._moved, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def moved(self) -> None:
        """It goes on. From any thread."""
        self._moved.set()

    def _watch(self) -> None:
        looks = 0
        while looks < _LOOKS:
            if self._left.wait(self._pause):
                return
            looks = 0 if self._moved.is_set() else looks + 1
            self._moved.clear()
        words = threading.Thread(target=self._last_words, daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        sys.stderr.flush()
        self._end(STUCK)
