"""Where a job stands: how many items have ended, who is at work, how long yet."""

import time
from collections.abc import Callable, Mapping

from services.client.answers import Counts, Job, Progress


class JobTally:
    """What was last heard of a job; times are in seconds, since it was first heard of."""

    def __init__(self, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.job = job
        self.rows = dict[int, Progress]()  # at work, by index
        self.names = dict[int, str]()  # as far as they are known
        self._clock = clock
        self._began = clock()
        self._first: tuple[float, float] | None = None  # when work was first seen, and how much

    @property
    def counts(self) -> Counts:
        return self.job.counts

    def stand(self, job: Job) -> None:
        self.job = job
        self._look()

    def advance(self, progress: Mapping[int, Progress]) -> None:
        """Those at work that have gone on."""
        self.rows.update(progress)
        self._look()

    def end(self, index: int) -> None:
        self.rows.pop(index, None)

    def name(self, index: int) -> str:
        return self.names.get(index, f"item {index}")

    @property
    def done(self) -> float:
        """In items; those at work count in part."""
        parts = sum(min(1.0, row.step / row.steps) for row in self.rows.values() if row.steps)
        return min(self.job.count, self.counts.ended + parts)

    @property
    def fraction(self) -> float:
        """Of the job, in 0 .. 1."""
        return self.done / max(1, self.job.count)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def per_hour(self) -> float | None:
        """Items, parts of them included; None: not known yet."""
        if self._first is None:
            return None
        since, done = self._first
        seconds, gained = self._clock() - since, self.done - done
        return 3600 * gained / seconds if seconds > 0 and gained > 0 else None

    @property
    def left(self) -> float | None:
        """Until the last item ends, at the pace so far; None: not known yet."""
        pace = self.per_hour
        return None if pace is None else 3600 * (self.job.count - self.done) / pace

    def _look(self) -> None:
        # What was done before somebody looked says nothing of the pace.
        if self._first is None and (self.rows or self.counts.ended):
            self._first = self._clock(), self.done
