"""Which jobs a worker takes next to those that it has in hand.

A batch has one shape. While subjects of one shape are in hand, jobs of others are passed over; if
one has been for too long, nothing more is claimed until the hand is empty, so that it gets a turn.
"""

import time
from collections.abc import Callable

from services.ledger.records import JobRecord


class Companions:
    """For the thread that claims."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """patience: seconds for which a job of another shape is passed over."""
        self._patience, self._clock = patience, clock
        self._batch: str | None = None
        self._passed_over_since: float | None = None

    def accepts(self, job: JobRecord) -> bool:
        """Whether a worker may claim items of this job now."""
        if job.kind != "training":
            return False
        if self._batch is None or job.batch == self._batch:
            return True
        if self._passed_over_since is None:
            self._passed_over_since = self._clock()
        return False

    def took(self, batch: str) -> None:
        """A subject of this shape is in hand."""
        self._batch = batch

    def emptied(self) -> None:
        """Nothing is in hand."""
        self._batch = self._passed_over_since = None

    @property
    def must_yield(self) -> bool:
        """Whether to claim nothing more until the hand is empty."""
        since = self._passed_over_since
        return since is not None and self._clock() - since > self._patience
