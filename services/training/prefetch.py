"""Subjects claimed and made ready by a thread of its own, so that a free slot finds one waiting.

Which jobs a worker takes next to those that it has in hand.

A batch has one shape. While subjects of one shape are in hand, jobs of others are passed over; if
one has been for too long, nothing more is claimed until the hand is empty, so that it gets a turn.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

from dti_engine.errors import DTIError
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
from services.storage.interface import Store
from services.training.batch import is_owed
from services.training.loader import LoadedSubject, order_of, prepare


class BatchAffinity:
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


_REFUSALS = (DamagedUploadError, LargeUploadError, UnknownUploadError)


class Prefetcher:
    """Keeps up to `capacity` attempts in hand while it is entered: in slots, waiting for one, or
    about to be committed. Beyond that it claims for tenants who are owed a slot, one at a time.
    """

    def __init__(
        self,
        worker: WorkerSession,
        store: Store,
        outbox: Outbox,
        companions: BatchAffinity,
        *,
        capacity: int,
        pause: float,
        patience: float = 30,
        on_ready: Callable[[], None],
        on_refused: Callable[[Attempt, Exception], None] = lambda attempt, error: None,
        on_trouble: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """pause: seconds between looks when there is nothing to claim. patience: seconds, at the
        end, for a store that does not answer. on_ready: a subject waits. on_refused: one cannot be
        trained, and is failed. on_trouble: the store did not answer.
        """
        self.ready: queue.SimpleQueue[LoadedSubject] = queue.SimpleQueue()
        self.capacity = capacity
        self.slots = Counter[str]()
        """How many each tenant has, while nobody waits for one; else empty."""
        self._worker, self._store, self._outbox = worker, store, outbox
        self._companions, self._pause = companions, pause
        self._patience = patience
        self._on_ready, self._on_refused, self._on_trouble = on_ready, on_refused, on_trouble
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def __enter__(self) -> "Prefetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Claims nothing more; what is ready stays to be taken. What is still being claimed or
        loaded then, if the store does not answer, is others' once the lease is over.
        """
        self.stop()
        self._thread.join(self._patience)

    def stop(self) -> None:
        """Claim nothing more, and do not wait for what is being loaded."""
        self._stopped.set()
        self._wake.set()

    def look_again(self) -> None:
        """There is room."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._claim():
                self._wake.wait(self._pause)
                self._wake.clear()

    def _claim(self) -> bool:
        """Whether something was claimed, so that it is worth while to look again at once."""
        in_hand = self._worker.attempts
        if not in_hand:
            self._companions.emptied()
        is_full = len(in_hand) >= self.capacity
        if self._companions.must_yield or (is_full and not is_owed(0, self.slots)):
            return False
        has = Counter(attempt.keys.tenant for attempt in in_hand)
        try:
            # One by one: the first says which others may be beside it.
            attempts = self._worker.claim(
                len(in_hand) + 1,
                lambda tenant: not is_full or is_owed(has[tenant], self.slots),
            )
        except Exception as error:
            # Whatever it is: a worker that claims nothing would look idle for ever.
            self._on_trouble(error)
            return False
        for attempt in attempts:
            self._make_ready(attempt)
            self.slots = Counter()  # until it has sat down
        return bool(attempts)

    def _make_ready(self, attempt: Attempt) -> None:
        try:
            self._companions.took(batch_of(order_of(attempt)[1]))
            attempt.report_progress({"phase": "loading"})
            self.ready.put(prepare(self._store, attempt, self._store.now()))
            self._on_ready()
        except UnavailableError as error:
            self._on_trouble(error)
            reason = f"the store did not answer: {error}"
            self._outbox.send(attempt, lambda: attempt.release(reason))
        except Exception as error:
            self._on_refused(attempt, error)
            foreseen = isinstance(error, DTIError) and (
                not isinstance(error, ServiceError) or isinstance(error, _REFUSALS)
            )
            reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
            self._outbox.send(attempt, lambda: attempt.fail(reason, retry=not foreseen))
