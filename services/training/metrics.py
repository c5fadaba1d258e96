"""Metrics and log events of a training worker."""

import time

from dti_engine.errors import InvalidBundleError, InvalidImageError, SubjectError
from services import logs, metrics
from services.errors import DamagedUploadError, LargeUploadError, UnknownUploadError
from services.ledger.attempts import Attempt
from services.ledger.item_results import count_failures

log = logs.logger(__name__)

_REJECTION_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (UnknownUploadError, "upload_missing"),
    (LargeUploadError, "upload_large"),
    (DamagedUploadError, "upload_damaged"),
    (InvalidImageError, "image"),
    (InvalidBundleError, "bundle"),
    (SubjectError, "settings"),
)


class WorkerMetrics:
    """Counts and logs what happens in one worker. Called from several threads; never raises."""

    def __init__(self, started: float | None = None) -> None:
        """Begin with the time (`time.monotonic`) at which the model began to load; None: now."""
        self._started = time.monotonic() if started is None else started
        self._has_stepped = False

    def subject_started(self, attempt: Attempt, resumed_at: int) -> None:
        """Record that a subject has a slot, after `resumed_at` steps of earlier attempts."""
        with attempt.log_context():
            log.info("subject started", attempt=attempt.number, resumed_at=resumed_at)

    def subject_preempted(self, attempt: Attempt) -> None:
        """Record that a subject has lost its slot to another tenant's, to resume later."""
        metrics.current().count("dti_subjects_preempted_total")
        with attempt.log_context():
            log.info("subject preempted", attempt=attempt.number)

    def stepped(self, step_s: float, used: int, slots: int) -> None:
        """Record one training step of the subjects in `used` of all `slots`."""
        recorder = metrics.current()
        if not self._has_stepped:
            self._has_stepped = True
            recorder.observe("dti_worker_start_seconds", time.monotonic() - self._started)
        recorder.observe("dti_training_step_seconds", step_s)
        self._set_slots(used, slots)

    def idle(self, slots: int) -> None:
        """Record that no slot is in use."""
        self._set_slots(0, slots)

    def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        """Record that an attempt has succeeded, failed, been released or stopped."""
        self._attempt_ended(attempt, how, reason, is_last=_is_last(attempt))

    def subject_rejected(self, attempt: Attempt, error: Exception) -> None:
        """Record that an attempt has failed for good: nothing can be learned from its subject."""
        for kind, reason in _REJECTION_REASONS:
            if isinstance(error, kind):
                metrics.current().count("dti_subject_rejections_total", reason=reason)
                break
        self._attempt_ended(attempt, "failed", str(error), is_last=True)

    def write_failed(self, attempt: Attempt, error: Exception) -> None:
        """Record that a result or checkpoint could not be written, and is given up."""
        with attempt.log_context():
            log.warning("write failed", attempt=attempt.number, error=str(error)[:300])

    def store_unavailable(self, error: Exception) -> None:
        """Record that the store did not answer; the call is repeated."""
        log.warning("store unavailable", error=str(error)[:300])

    def lease_lost(self, worker: str) -> None:
        """Record that the supervisor has broken this worker's lease."""
        metrics.current().count("dti_lease_losses_total")
        log.warning("lease lost", worker=worker)

    def device_hung(self, timeout_s: float) -> None:
        """Record that the device has made no progress for so long that the process ends."""
        log.error("device makes no progress: this process ends", timeout_s=timeout_s)

    def slots_reduced(self, slots: int) -> None:
        """Record that memory ran out, and how many slots are left."""
        log.warning("out of memory: fewer slots", slots=slots)

    def _set_slots(self, used: int, slots: int) -> None:
        metrics.current().set("dti_slots", used, state="used")
        metrics.current().set("dti_slots", slots, state="total")

    def _attempt_ended(self, attempt: Attempt, how: str, reason: str, *, is_last: bool) -> None:
        cause = (attempt.stop_reason or how) if how == "stopped" else how
        recorder = metrics.current()
        recorder.count("dti_attempts_total", cause=cause)
        # A subject ends with its last attempt; one that was lost or released is tried again.
        if cause in ("succeeded", "cancelled", "deleted") or (cause == "failed" and is_last):
            recorder.count("dti_subjects_total", outcome=cause)
        with attempt.log_context():
            log.info("attempt ended", attempt=attempt.number, cause=cause, reason=reason[:300])


def _is_last(attempt: Attempt) -> bool:
    return count_failures(attempt.earlier_ends) + 1 >= attempt.max_attempts
