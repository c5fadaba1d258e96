"""Autoscaler: how many workers a pool should have, which of them should go, and start backoff."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from services.contracts.models import ServedModel
from services.supervisor.fair_share import ShareDecision
from services.training.pool import WorkerStatus

_UNLIMITED = ShareDecision()


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A change of the number of workers of a pool."""

    desired: int
    start: int = 0
    drain: tuple[str, ...] = ()


def desired_workers(model: ServedModel, open_items: int) -> int:
    """Return the workers that give every open item a slot, within the limits of the model."""
    return min(max(math.ceil(open_items / model.slots), model.min_workers), model.max_workers)


def scale(
    desired: int,
    workers: Sequence[WorkerStatus],
    *,
    idle_timeout_s: float,
    share: ShareDecision = _UNLIMITED,
) -> ScaleChange:
    """Return the change that leads to the desired workers, or to what others leave of them.

    A worker with open attempts is left alone, because it becomes idle at the end of its job, unless
    other models have waited long for its place.

    idle_timeout_s: time for which an idle worker is kept where no other model waits: the next job
        may come at once, and models load slowly.
    """
    limit = desired if share.limit is None else min(desired, share.limit)
    keep_s = idle_timeout_s if share.limit is None else 0.0
    staying = [worker for worker in workers if worker.state != "draining"]
    if len(staying) <= limit:
        return ScaleChange(desired, start=limit - len(staying))
    spare = [
        worker
        for worker in staying
        if worker.state == "pending"
        or (not worker.open_attempts and worker.idle_s >= keep_s)
        or share.must_release
    ]
    # Workers that wait for a node go first, so that no node is added for nothing.
    spare.sort(
        key=lambda each: (each.placed, each.state != "pending", each.open_attempts, -each.idle_s)
    )
    excess = len(staying) - limit
    return ScaleChange(desired, drain=tuple(worker.name for worker in spare[:excess]))


_HEALTHY_AFTER_S = 30.0
"""Time of running after which a start counts as successful."""

_BACKOFF_S = (0.0, 5.0, 15.0, 60.0, 300.0)
"""Pauses by the number of failed starts in a row."""


class StartBackoff:
    """Exponential backoff of one pool: the more starts failed in a row, the later the next.

    A start fails, such as of weights that cannot be loaded, when its worker is gone before it has
    run for a while. The time in which it waits for a place or loads does not count.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running_since: dict[str, float | None] = {}
        """By name; None: it waits for a place, or loads its model."""
        self._drained: set[str] = set()
        self._failures = 0
        self._failed_at = float("-inf")

    def started(self, name: str) -> None:
        """Note that a worker has been started. It may be gone before it is ever seen."""
        self._running_since[name] = None

    def update(self, workers: Collection[WorkerStatus]) -> int:
        """Note which workers there are now; return how many starts have failed since."""
        now = self._clock()
        failed = 0
        names = {worker.name for worker in workers}
        self._drained &= names
        for name in self._running_since.keys() - names:
            since = self._running_since.pop(name)
            if since is None or now - since < _HEALTHY_AFTER_S:
                self._failures += 1
                failed += 1
                self._failed_at = now
        for worker in workers:
            # Workers that are asked to leave do not fail by leaving early.
            if worker.name in self._drained or worker.state == "draining":
                self._running_since.pop(worker.name, None)
                continue
            since = self._running_since.setdefault(worker.name, None)
            if since is None and worker.state == "running":
                since = self._running_since[worker.name] = now
            if since is not None and now - since >= _HEALTHY_AFTER_S:
                self._failures = 0
        return failed

    def drained(self, name: str) -> None:
        """Note that a worker has been asked to leave."""
        self._drained.add(name)
        self._running_since.pop(name, None)

    @property
    def may_start(self) -> bool:
        """Return whether workers may be started now."""
        pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        return self._clock() - self._failed_at >= pause_s
