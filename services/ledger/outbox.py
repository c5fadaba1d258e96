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
class OutboxEntry:
    """Something to be written for an attempt."""

    attempt: Attempt
    write: Callable[[], None]
    until_written: bool
    """Until it is written, or in vain; or else once."""


class Outbox:
    """Letters are written in the order in which they were sent."""

    def __init__(
        self,
        on_failed: Callable[[Attempt, Exception], None] = lambda attempt, error: None,
        on_written: Callable[[], None] = lambda: None,
        drain_timeout_s: float = 30,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_lost` hears of what could not be written, and why; `on_written` after each letter.

        patience: seconds, at the end, for a store that does not answer.
        """
        self._letters: queue.Queue[OutboxEntry | None] = queue.Queue()
        self._on_lost, self._on_written, self._sleep = on_failed, on_written, sleep
        self._patience = drain_timeout_s
        self._at: OutboxEntry | None = None
        self._heard = 0.0
        """When the store answered last."""
        self._given_up = False
        self._thread = threading.Thread(target=self._write_all, name="outbox", daemon=True)

    def __enter__(self) -> "Outbox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns once all is written, or in vain; or once the store has not answered for so long
        that what is left is given up: others do it again when the lease is over.
        """
        self._letters.put(None)
        self._heard = time.monotonic()
        while self._thread.is_alive():
            left = self._heard + self._patience - time.monotonic()
            if left <= 0:
                self._give_up()
                return
            self._thread.join(left)

    def send(
        self, attempt: Attempt, write: Callable[[], None], *, until_written: bool = True
    ) -> None:
        """Write it soon."""
        self._letters.put(OutboxEntry(attempt, write, until_written))

    def _give_up(self) -> None:
        self._given_up = True
        error = UnavailableError(f"the store did not answer for {self._patience:g} s at the end")
        left = [self._at]
        while not self._letters.empty():
            left.append(self._letters.get())
        self._letters.put(None)
        for letter in filter(None, left):
            self._on_lost(letter.attempt, error)

    def _write_all(self) -> None:
        while letter := self._letters.get():
            self._at = letter
            try:
                self._write(letter)
            finally:
                self._at = None
                self._on_written()

    def _write(self, letter: OutboxEntry) -> None:
        tries = 0
        while not self._given_up:
            try:
                letter.write()
            except UnavailableError as error:
                # A lease that is lost belongs to others, who end its attempts.
                if not letter.until_written or letter.attempt.lease.lost:
                    self._on_lost(letter.attempt, error)
                    return
                self._sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1
                continue
            except (SupersededError, LeaseLostError) as error:
                # It is in others' hands, or has ended: whoever is at it stops.
                letter.attempt.stop_reason = letter.attempt.stop_reason or "lost"
                self._on_lost(letter.attempt, error)
            except Exception as error:
                # Such as a store that forbids it, or a bug: a thread that ended for it would take
                # all other results with it.
                self._on_lost(letter.attempt, error)
                if letter.until_written:
                    with suppress(Exception):
                        letter.attempt.fail(f"it could not be written: {error}")
                    # If that failed too, others see that the lease names it no more.
                    letter.attempt.lease.remove_attempt(letter.attempt.held)
            self._heard = time.monotonic()
            return
