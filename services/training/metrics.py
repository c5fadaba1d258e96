"""What happens in a worker, counted and logged.

What happens in a worker, for those who count and log it.
"""

import time

from dti_engine.errors import InvalidBundleError, InvalidImageError, SubjectError
from services import logs, metrics
from services.errors import DamagedUploadError, LargeUploadError, UnknownUploadError
from services.ledger.attempts import Attempt
from services.ledger.results import count_failures


class Events:
    """Does nothing by itself. Called from several threads; must not raise."""

    def seated(self, attempt: Attempt, resumed_at: int) -> None:
        """A subject has a slot, after so many steps of earlier attempts."""

    def set_aside(self, attempt: Attempt) -> None:
        """A subject has lost its slot to another tenant's, and goes on later."""

    def stepped(self, seconds: float, used: int, slots: int) -> None:
        """One step of so many subjects in so many slots."""

    def idle(self, slots: int) -> None:
        """There is nothing to do in so many slots."""

    def ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        """An attempt is over: succeeded, failed, released or stopped."""

    def refused(self, attempt: Attempt, error: Exception) -> None:
        """Nothing can be learned from what was given; it has failed."""

    def unwritten(self, attempt: Attempt, error: Exception) -> None:
        """Something of an attempt could not be written, in the end."""

    def trouble(self, error: Exception) -> None:
        """The store did not answer; it is tried again."""

    def broke(self, error: Exception) -> None:
        """Something broke that is no subject's fault; all is given back."""

    def lease_lost(self, worker: str) -> None:
        """Others hold this worker for dead."""

    def stuck(self, seconds: float) -> None:
        """The device has not come back for so long: the process ends."""

    def shrunk(self, slots: int) -> None:
        """Memory ran out: from now on there are so many slots."""


log = logs.logger(__name__)

_FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (UnknownUploadError, "upload_missing"),
    (LargeUploadError, "upload_large"),
    (DamagedUploadError, "upload_damaged"),
    (InvalidImageError, "image"),
    (InvalidBundleError, "bundle"),
    (SubjectError, "settings"),
)


class WorkerMetrics(Events):
    """By the table of metrics, and as lines of the log."""

    def __init__(self, pool: str, started: float | None = None) -> None:
        """started: when it began to load its model, by `time.monotonic`."""
        self._pool = pool
        self._started = time.monotonic() if started is None else started
        self._stepped = False

    def seated(self, attempt: Attempt, resumed_at: int) -> None:
        with _ids(attempt):
            log.info("subject seated", attempt=attempt.number, resumed_at=resumed_at)

    def set_aside(self, attempt: Attempt) -> None:
        metrics.current().count("dti_subjects_set_aside_total")
        with _ids(attempt):
            log.info("subject set aside", attempt=attempt.number)

    def stepped(self, seconds: float, used: int, slots: int) -> None:
        counted = metrics.current()
        if not self._stepped:
            self._stepped = True
            counted.observe("dti_worker_start_seconds", time.monotonic() - self._started)
        counted.observe("dti_step_seconds", seconds)
        counted.set("dti_slots", used, state="used")
        counted.set("dti_slots", slots, state="total")

    def idle(self, slots: int) -> None:
        metrics.current().set("dti_slots", 0, state="used")
        metrics.current().set("dti_slots", slots, state="total")

    def ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        self._ended(attempt, how, reason)

    def _ended(self, attempt: Attempt, how: str, reason: str, *, for_good: bool = False) -> None:
        cause = (attempt.stop_reason or how) if how == "stopped" else how
        counted = metrics.current()
        counted.count("dti_attempts_total", cause=cause)
        if cause in ("succeeded", "cancelled", "deleted"):
            counted.count("dti_subjects_total", outcome=cause)
        elif cause == "failed" and (for_good or _is_last(attempt)):
            counted.count("dti_subjects_total", outcome="failed")
        with _ids(attempt):
            log.info("attempt over", attempt=attempt.number, cause=cause, reason=reason[:300])

    def refused(self, attempt: Attempt, error: Exception) -> None:
        fault = next((name for kind, name in _FAULTS if isinstance(error, kind)), None)
        if fault:
            metrics.current().count("dti_subject_rejections_total", reason=fault)
        self._ended(attempt, "failed", str(error), for_good=True)

    def unwritten(self, attempt: Attempt, error: Exception) -> None:
        with _ids(attempt):
            log.warning("not written", attempt=attempt.number, error=str(error)[:300])

    def trouble(self, error: Exception) -> None:
        log.warning("trouble with the store", error=str(error)[:300])

    def broke(self, error: Exception) -> None:
        log.error("a life broke", error=f"{type(error).__name__}: {error}"[:300])

    def lease_lost(self, worker: str) -> None:
        metrics.current().count("dti_lease_losses_total")
        log.warning("lease lost", worker=worker)

    def stuck(self, seconds: float) -> None:
        log.error("the device does not come back: this process ends", seconds=seconds)

    def shrunk(self, slots: int) -> None:
        log.warning("memory ran out", slots=slots)


def _is_last(attempt: Attempt) -> bool:
    """Whether no other follows if it fails."""
    return count_failures(attempt.earlier_ends) + 1 >= attempt.max_attempts


def _ids(attempt: Attempt):
    return logs.bound(job=attempt.keys.job, item=str(attempt.item_ref.index))
