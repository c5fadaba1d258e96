"""A training worker: session after session until it is drained; and the watchdog of its device."""

import os
import sys
import threading
import time
from collections.abc import Callable

from dti_engine.backbones.interface import Backbone
from dti_engine.quality.token_scorers import TokenScorer
from services.errors import ServiceError
from services.ledger.ledger import Ledger
from services.settings import WorkerTimeouts
from services.training.commits import ValidationRunner
from services.training.metrics import WorkerMetrics
from services.training.session import TrainingSession

EXIT_CODE_HUNG = 70
"""Exit code of a process that the watchdog has ended."""

_CHECKS = 20  # without progress, before the end
_BEFORE_END_S = 10.0  # for `before_end`, which calls the store, and that may hang, too


class Watchdog:
    """Ends this process when it has made no progress for too long, while it is entered.

    Nothing less helps: no exception reaches a thread that hangs in a call to a device. Checks are
    counted instead of time, so that a process that was stopped (SIGSTOP) does not count as hung
    when it continues.
    """

    def __init__(
        self,
        timeout_s: float,
        before_end: Callable[[], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """before_end: called before the end in a thread of its own, which may hang."""
        self._interval_s, self._before_end, self._end = timeout_s / _CHECKS, before_end, end
        self._progressed, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def progress(self) -> None:
        """Note that there is progress. From any thread."""
        self._progressed.set()

    def _watch(self) -> None:
        checks = 0
        while checks < _CHECKS:
            if self._left.wait(self._interval_s):
                return
            checks = 0 if self._progressed.is_set() else checks + 1
            self._progressed.clear()
        thread = threading.Thread(target=self._before_end, daemon=True)
        thread.start()
        thread.join(_BEFORE_END_S)
        # `os._exit` flushes nothing, and the last line of the log says why the process ended.
        sys.stderr.flush()
        self._end(EXIT_CODE_HUNG)


class TrainingWorker:
    """Trains subjects of one pool until it is drained. It knows nothing of Ray.

    When its lease is lost, or something fails, a new session begins without any attempt.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        scorer: TokenScorer | None = None,
        *,
        num_slots: int,
        timeouts: WorkerTimeouts | None = None,
        metrics: WorkerMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._pool, self._backbone = ledger, pool, backbone
        self._validation = ValidationRunner(backbone, scorer)
        self._num_slots = num_slots
        self._reduced_slots: dict[str, int] = {}
        self._timeouts, self._metrics = timeouts or WorkerTimeouts(), metrics or WorkerMetrics()
        self._clock = clock
        self._draining = threading.Event()
        self._session: TrainingSession | None = None

    @property
    def open_attempts(self) -> int:
        """The number of attempts that have not ended."""
        return self._session.open_attempts if self._session else 0

    def drain(self) -> None:
        """Claim nothing more, release all subjects with checkpoints, and have `run` return.

        From any thread.
        """
        self._draining.set()

    def run(self) -> None:
        """Work until drained. A device that hangs ends the process (`Watchdog`).

        Raises: DeviceError: the process is of no more use.
        """
        with Watchdog(self._timeouts.watchdog_timeout_s, self._abandon_lease) as watchdog:
            while not self._draining.is_set():
                watchdog.progress()
                self._run_session(watchdog)
                # Not at once: what ended this session may end the next one, too.
                self._draining.wait(self._ledger.settings.poll_interval_s)

    def _run_session(self, watchdog: Watchdog) -> None:
        self._session = session = TrainingSession(
            self._ledger,
            self._pool,
            self._backbone,
            self._validation,
            num_slots=self._num_slots,
            reduced_slots=self._reduced_slots,
            timeouts=self._timeouts,
            metrics=self._metrics,
            draining=self._draining,
            on_progress=watchdog.progress,
            clock=self._clock,
        )
        try:
            session.run()
        except ServiceError as error:
            # It could not write that it begins or ends; the supervisor finds that out.
            self._metrics.store_unavailable(error)

    def _abandon_lease(self) -> None:
        self._metrics.device_hung(self._timeouts.watchdog_timeout_s)
        if session := self._session:
            session.abandon_lease()
