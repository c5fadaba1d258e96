"""Prefetching: a thread that claims and loads subjects, so that a free slot finds one waiting.

A batch has one shape. While a worker holds subjects of one shape, it passes over jobs of other
shapes. If one has been passed over for too long, nothing more is claimed until all held attempts
have ended, so that this job gets its turn.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

from dti_engine.errors import DTIError
from services import logs
from services.contracts.training import batch_of
from services.errors import (
    DamagedUploadError,
    LargeUploadError,
    ServiceError,
    UnavailableError,
    UnknownUploadError,
)
from services.ledger.attempts import Attempt
from services.ledger.outbox import Outbox
from services.ledger.records import JobRecord
from services.ledger.worker import WorkerSession
from services.process import error_boundary
from services.storage.interface import Store
from services.training.batch import may_preempt
from services.training.loader import LoadedSubject, load_subject, read_job
from services.training.metrics import WorkerMetrics

log = logs.logger(__name__)


class BatchAffinity:
    """Prefers jobs of the present batch shape, without starving others. For the claiming thread."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """timeout_s: how long a job of another shape is passed over."""
        self._timeout_s, self._clock = timeout_s, clock
        self._batch: str | None = None
        self._passed_over_since: float | None = None

    def accepts(self, job: JobRecord) -> bool:
        """Return whether items of this job may be claimed now."""
        if job.kind != "training":
            return False
        if self._batch is None or job.batch == self._batch:
            return True
        if self._passed_over_since is None:
            self._passed_over_since = self._clock()
        return False

    def claimed(self, batch: str) -> None:
        """Note that the worker holds a subject of this shape."""
        self._batch = batch

    def emptied(self) -> None:
        """Note that the worker holds no attempt."""
        self._batch = self._passed_over_since = None

    @property
    def must_yield(self) -> bool:
        """Return whether to claim nothing more until all current attempts have ended."""
        since = self._passed_over_since
        return since is not None and self._clock() - since > self._timeout_s


_REJECTIONS = (DamagedUploadError, LargeUploadError, UnknownUploadError)
"""Errors of the service, as opposed to the engine, that a subject itself is to blame for."""


class Prefetcher:
    """Keeps the worker holding up to `capacity` attempts while it is entered.

    They are in slots, wait for one, or wait to be committed. Beyond that it claims for tenants that
    may preempt another's slot, one subject at a time.
    """

    def __init__(
        self,
        worker: WorkerSession,
        store: Store,
        outbox: Outbox,
        affinity: BatchAffinity,
        metrics: WorkerMetrics,
        *,
        capacity: int,
        poll_interval_s: float,
        flush_timeout_s: float = 30,
        on_ready: Callable[[], None],
    ) -> None:
        """Prepare the thread.

        capacity: attempts held at a time; it may be set at any time.
        poll_interval_s: between two looks for work while there is none.
        flush_timeout_s: at the end, for a store that does not answer.
        on_ready: called when a subject is in `ready`, or the thread has failed.
        """
        self.ready: queue.SimpleQueue[LoadedSubject] = queue.SimpleQueue()
        self.capacity = capacity
        self.slots = Counter[str]()
        """Slots of each tenant while no subject waits for one; otherwise empty."""
        self.failure: Exception | None = None
        """Why the thread has ended early; the session then ends, too."""
        self._worker, self._store, self._outbox = worker, store, outbox
        self._affinity, self._metrics = affinity, metrics
        self._poll_interval_s, self._flush_timeout_s = poll_interval_s, flush_timeout_s
        self._on_ready = on_ready
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> "Prefetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Claim nothing more; what is ready may still be taken.

        What is still being claimed or loaded when a silent store has used up the timeout belongs to
        others once the lease is over.
        """
        self.stop()
        self._thread.join(self._flush_timeout_s)

    def stop(self) -> None:
        """Claim nothing more, and do not wait for what is being loaded."""
        self._stopped.set()
        self._wake.set()

    def wake(self) -> None:
        """Look for work at once: there is room."""
        self._wake.set()

    def _run(self) -> None:
        # A worker that claims nothing more would look idle for ever: its session ends instead.
        with error_boundary("prefetch thread failed", self._report_failure):
            while not self._stopped.is_set():
                if not self._claim():
                    # Cleared after the wait: a call of `wake` during a claim ends the next wait.
                    self._wake.wait(self._poll_interval_s)
                    self._wake.clear()

    def _report_failure(self, error: Exception) -> None:
        self.failure = error
        self._on_ready()

    def _claim(self) -> bool:
        """Claim and load what there is room for; return whether there was anything."""
        held = self._worker.attempts
        if not held:
            self._affinity.emptied()
        is_full = len(held) >= self.capacity
        if self._affinity.must_yield or (is_full and not may_preempt(0, self.slots)):
            return False
        per_tenant = Counter(attempt.keys.tenant for attempt in held)
        try:
            # One by one: the first decides which others may be beside it.
            attempts = self._worker.claim(
                len(held) + 1,
                lambda tenant: not is_full or may_preempt(per_tenant[tenant], self.slots),
            )
        except ServiceError as error:
            self._metrics.store_unavailable(error)
            return False
        for attempt in attempts:
            self._load(attempt)
            # Until this subject has its slot, so that no second one is claimed for the same slot.
            self.slots = Counter()
        return bool(attempts)

    def _load(self, attempt: Attempt) -> None:
        try:
            self._affinity.claimed(batch_of(read_job(attempt)[1]))
            attempt.report_progress({"phase": "loading"})
            self.ready.put(load_subject(self._store, attempt, self._store.now()))
            self._on_ready()
        except UnavailableError as error:
            # The store's fault, and no failure of the subject: released, it costs no attempt.
            self._metrics.store_unavailable(error)
            reason = f"the store did not answer: {error}"
            self._outbox.send(attempt, lambda: attempt.release(reason))
        except Exception as error:
            is_rejection = isinstance(error, DTIError) and (
                not isinstance(error, ServiceError) or isinstance(error, _REJECTIONS)
            )
            if is_rejection:
                reason = str(error)
                self._metrics.subject_rejected(attempt, error)
            else:
                with attempt.log_context():
                    log.exception("subject could not be loaded")
                reason = f"{type(error).__name__}: {error}"
                self._metrics.attempt_ended(attempt, "failed", reason)
            self._outbox.send(attempt, lambda: attempt.fail(reason, retry=not is_rejection))
