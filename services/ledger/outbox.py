"""A write-behind outbox: a thread that writes what attempts end with, so that no step waits."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from services import logs
from services.errors import LeaseLostError, SupersededError, UnavailableError
from services.ledger.attempts import Attempt

log = logs.logger(__name__)

_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before the second, third, ... try of a write that the store did not take."""


@dataclass(frozen=True, eq=False)
class OutboxEntry:
    """A write for an attempt."""

    attempt: Attempt
    write: Callable[[], None]
    until_written: bool
    """Whether to try until it succeeds or is refused, rather than once."""


def _ignore(attempt: Attempt, error: Exception) -> None:
    """Do nothing about a write that failed."""


class Outbox:
    """A queue of writes, done in order by a thread of its own while the context is entered."""

    def __init__(
        self,
        on_failed: Callable[[Attempt, Exception], None] = _ignore,
        on_written: Callable[[], None] = lambda: None,
        drain_timeout_s: float = 30,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create an outbox.

        Args:
            on_failed: Called once with each attempt whose write failed for good, and why.
            on_written: Called after each entry, whether it was written or not.
            drain_timeout_s: How long the end waits for a store that does not answer.
            sleep: Pauses between two tries.
        """
        self._entries: queue.Queue[OutboxEntry | None] = queue.Queue()
        self._on_failed, self._on_written, self._sleep = on_failed, on_written, sleep
        self._drain_timeout_s = drain_timeout_s
        self._current: OutboxEntry | None = None
        self._last_answer = 0.0
        """When the store answered last."""
        self._given_up = False
        self._thread = threading.Thread(target=self._write_all, name="outbox", daemon=True)

    def __enter__(self) -> "Outbox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all entries are done, or give up on a store that does not answer.

        What is given up is not lost for good: once the lease has expired, the items are claimed
        again.
        """
        self._entries.put(None)
        self._last_answer = time.monotonic()
        while self._thread.is_alive():
            # Counted from the last answer, as a slow store that still writes is worth the wait.
            left_s = self._last_answer + self._drain_timeout_s - time.monotonic()
            if left_s <= 0:
                self._give_up()
                return
            self._thread.join(left_s)

    def send(
        self, attempt: Attempt, write: Callable[[], None], *, until_written: bool = True
    ) -> None:
        """Add a write to the queue, and return at once."""
        self._entries.put(OutboxEntry(attempt, write, until_written))

    def _give_up(self) -> None:
        # The thread may go on hanging in a write: it is a daemon, and so does not keep the process
        # from ending.
        self._given_up = True
        error = UnavailableError(
            f"the store did not answer for {self._drain_timeout_s:g} s at the end"
        )
        left = [self._current]
        while not self._entries.empty():
            left.append(self._entries.get())
        self._entries.put(None)
        for entry in filter(None, left):
            self._on_failed(entry.attempt, error)

    def _write_all(self) -> None:
        while entry := self._entries.get():
            self._current = entry
            try:
                self._write(entry)
            finally:
                self._current = None
                self._on_written()

    def _write(self, entry: OutboxEntry) -> None:
        attempt, on_failed, tries = entry.attempt, self._on_failed, 0
        while not self._given_up:
            try:
                entry.write()
            except UnavailableError as error:
                # Once the lease is lost, the supervisor ends the attempt: no need to go on.
                if not entry.until_written or attempt.lease.lost:
                    on_failed(attempt, error)
                    return
                self._sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                tries += 1
                continue
            except (SupersededError, LeaseLostError) as error:
                # The item has ended, or others have it: the worker has to stop working at it.
                attempt.stop_reason = attempt.stop_reason or "lost"
                on_failed(attempt, error)
            except Exception as error:
                # Such as a store that denies access, or a bug. The thread has to survive it, or
                # all later results would be lost with this one.
                with attempt.log_context():
                    log.exception("write for an attempt failed")
                on_failed(attempt, error)
                if entry.until_written:
                    # The result cannot be written, but perhaps its failure can: tried once. If not,
                    # nothing is lost: the lease names the attempt no more, so that the supervisor
                    # ends it.
                    attempt.lease.remove_attempt(attempt.held)
                    on_failed = _ignore  # It has been called for this attempt.
                    write = partial(attempt.fail, f"it could not be written: {error}")
                    entry = OutboxEntry(attempt, write, until_written=False)
                    continue
            self._last_answer = time.monotonic()
            return
