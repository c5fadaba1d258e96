"""Metrics and log lines of a dispatcher."""

import time

from services import logs, metrics
from services.errors import NoEngineError
from services.ledger.attempts import Attempt

log = logs.logger(__name__)

_BUSY_LOG_INTERVAL_S = 30.0
"""How often to log that the engines of a model have no room."""


class DispatcherMetrics:
    """Counts and logs what happens in a dispatcher. Called from several threads; must not raise."""

    def __init__(self) -> None:
        self._busy_logged_at: dict[str, float] = {}

    def attempt_ended(self, attempt: Attempt, cause: str, reason: str = "") -> None:
        """Record that an attempt succeeded, failed, was released or was stopped."""
        metrics.current().count("dti_attempts_total", cause=cause)
        with attempt.log_context():
            log.info("attempt ended", attempt=attempt.number, cause=cause, reason=reason[:300])

    def attempt_broke(self, attempt: Attempt, error: BaseException) -> None:
        """Record an unexpected error of an engine or of this process."""
        with attempt.log_context():
            log.error("image generation failed unexpectedly", exc_info=error)

    def not_written(self, attempt: Attempt, error: Exception) -> None:
        """Record that the end of an attempt could not be written."""
        with attempt.log_context():
            log.warning("attempt not written", attempt=attempt.number, error=str(error)[:300])

    def engines_busy(self, model: str, error: NoEngineError) -> None:
        """Record that the engines of a model have no room, or that there are none."""
        now = time.monotonic()
        if now - self._busy_logged_at.get(model, float("-inf")) >= _BUSY_LOG_INTERVAL_S:
            self._busy_logged_at[model] = now
            log.info("waiting for engines", model=model, reason=str(error)[:300])

    def store_failed(self, error: Exception) -> None:
        """Record that a request to the store failed; it is tried again."""
        log.warning("store request failed", error=f"{type(error).__name__}: {error}"[:300])

    def lease_lost(self, worker: str) -> None:
        """Record that this dispatcher has lost its lease, so that others take its attempts."""
        metrics.current().count("dti_lease_losses_total")
        log.warning("lease lost", worker=worker)
