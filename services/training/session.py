"""Session of a training worker: one lease, from its begin until the worker is drained or loses it.

Four threads take part: this one owns the device; `Prefetcher` claims and loads ahead; `Outbox`
writes; `Heartbeat` renews the lease. None of them waits for another's requests to the store.
"""

import threading
import time
from collections.abc import Callable

from dti_engine.backbones.interface import Backbone
from services import logs
from services.ledger.ledger import Ledger
from services.ledger.outbox import Outbox
from services.ledger.worker import Heartbeat, WorkerSession
from services.settings import WorkerTimeouts
from services.training.batch import DeviceError
from services.training.commits import ResultCommitter, ValidationRunner
from services.training.metrics import WorkerMetrics
from services.training.prefetch import BatchAffinity, Prefetcher
from services.training.slot_scheduler import SlotScheduler

log = logs.logger(__name__)

_IDLE_WAIT_S = 0.5  # between two looks whether to drain, while no slot is in use


class TrainingSession:
    """A lease of a training worker. Not thread-safe, but for `abandon_lease`."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        validation: ValidationRunner,
        *,
        num_slots: int,
        reduced_slots: dict[str, int],
        timeouts: WorkerTimeouts,
        metrics: WorkerMetrics,
        draining: threading.Event,
        on_progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a session without a lease.

        reduced_slots: see `SlotScheduler`; it outlives the session.
        draining: set from outside to end the session.
        on_progress: called whenever the device has made progress.
        """
        affinity = BatchAffinity(timeouts.batch_affinity_s, clock)
        self._worker = WorkerSession(ledger, pool, affinity.accepts)
        self._metrics, self._draining, self._on_progress = metrics, draining, on_progress
        self._wake = threading.Event()
        self._outbox = Outbox(
            metrics.write_failed,
            # An attempt is held until its end is written: only then is there room for another.
            lambda: self._prefetcher.wake(),
            timeouts.flush_timeout_s,
        )
        self._prefetcher = Prefetcher(
            self._worker,
            ledger.store,
            self._outbox,
            affinity,
            metrics,
            capacity=num_slots,
            poll_interval_s=ledger.settings.poll_interval_s,
            flush_timeout_s=timeouts.flush_timeout_s,
            on_ready=self._wake.set,
        )
        self._scheduler = SlotScheduler(
            backbone,
            self._prefetcher,
            self._outbox,
            ResultCommitter(ledger.store, self._outbox, validation, metrics, on_progress),
            metrics,
            timeouts,
            num_slots=num_slots,
            reduced_slots=reduced_slots,
            on_progress=on_progress,
            clock=clock,
        )

    @property
    def open_attempts(self) -> int:
        """The number of attempts that have not ended."""
        return len(self._worker.attempts)

    def abandon_lease(self) -> None:
        """Leave all attempts to others, as if this process had been killed. From any thread.

        Raises: UnavailableError.
        """
        self._worker.lease.abandon_lease()

    def run(self) -> None:
        """Train until drained, until the lease is lost, or until something fails.

        Raises: ServiceError if the session cannot begin, or cannot end, which harms nothing;
        DeviceError if nothing more can be done in this process.
        """
        self._worker.begin()
        failure: Exception | None = None
        # Left from the inside out: the prefetcher ends before the outbox, which it writes to, and
        # the outbox before the heartbeat, as its last writes need the lease.
        with Heartbeat(self._worker), self._outbox:
            with self._prefetcher:
                try:
                    while not self._draining.is_set() and not self._worker.lease.lost:
                        self._turn()
                except Exception as error:
                    # It belongs to no subject: all of them resume elsewhere, from their latest
                    # checkpoints.
                    failure = error
                    log.exception("worker session failed")
                self._prefetcher.stop()
                self._scheduler.give_back(failure)
            self._scheduler.release_waiting()
        if self._worker.lease.lost:
            self._metrics.lease_lost(self._worker.lease.worker)
        else:
            self._worker.end()
        # After the lease is released: other workers resume the subjects while this process ends.
        if isinstance(failure, DeviceError):
            raise failure

    def _turn(self) -> None:
        self._on_progress()
        if self._prefetcher.failure:
            raise self._prefetcher.failure
        self._scheduler.drop_stopped()
        self._scheduler.fill()
        if self._scheduler.is_busy:
            self._scheduler.step()
        else:
            self._metrics.idle(self._scheduler.num_slots)
            self._wake.wait(_IDLE_WAIT_S)
            self._wake.clear()
