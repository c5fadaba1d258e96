"""What attempts have come to, written by a thread of its own: no step waits for the store."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from services.errors import LeaseLostError, SupersededError, UnavailableError
from services.ledger.attempts import Attempt

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to write what the store did not take."""


@dataclass(frozen=True, eq=False)
class Letter:
    """Something to be written for an attempt."""

    attempt: Attempt
    write: Callable[[], None]
    insist: bool
    """Until it is written, or in vain; or else once."""


class Outbox:
    """Letters are written in the order in which they were sent."""

    def __init__(
        self,
        on_lost: Callable[[Attempt, Exception], None] = lambda attempt, error: None,
        on_written: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_lost` hears of what could not be written, and why; `on_written` after each letter."""
        self._letters: queue.Queue[Letter | None] = queue.Queue()
        self._on_lost, self._on_written, self._sleep = on_lost, on_written, sleep
        self._thread = threading.Thread(target=self._write_all, name="outbox", daemon=True)

    def __enter__(self) -> "Outbox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns once all is written, or in vain."""
        self._letters.put(None)
        self._thread.join()

    def send(self, attempt: Attempt, write: Callable[[], None], *, insist: bool = True) -> None:
        """Write it soon."""
        self._letters.put(Letter(attempt, write, insist))

    def flush(self) -> None:
        """Wait until all that was sent is written, or in vain."""
        self._letters.join()

    def _write_all(self) -> None:
        while letter := self._letters.get():
            try:
                self._write(letter)
            finally:
                self._letters.task_done()
                self._on_written()
        self._letters.task_done()

    def _write(self, letter: Letter) -> None:
        tries = 0
        while True:
            try:
                letter.write()
                return
            except UnavailableError as error:
                # A lease that is lost belongs to others, who end its attempts.
                if not letter.insist or letter.attempt.lease.lost:
                    self._on_lost(letter.attempt, error)
                    return
            except (SupersededError, LeaseLostError) as error:
                # It is in others' hands, or has ended: whoever is at it stops.
                letter.attempt.stop = letter.attempt.stop or "lost"
                self._on_lost(letter.attempt, error)
                return
            except Exception as error:
                # Such as a store that forbids it, or a bug: a thread that ended for it would take
                # all other results with it.
                self._on_lost(letter.attempt, error)
                if letter.insist:
                    with suppress(Exception):
                        letter.attempt.fail(f"it could not be written: {error}")
                    # If that failed too, others see that the lease names it no more.
                    letter.attempt.lease.drop(letter.attempt.held)
                return
            self._sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1
