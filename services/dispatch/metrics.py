"""What happens in a dispatcher, counted by the table of metrics, and as lines of the log."""

import time

from services import logs, metrics
from services.errors import NoEngineError
from services.ledger.attempts import Attempt

log = logs.logger(__name__)

_BETWEEN_WORDS = 30.0  # seconds, of an engine that has no room


class Events:
    """Of one process. Called from several threads; must not raise."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        """An attempt is over: succeeded, failed, released or stopped."""
        cause = (attempt.stop_reason or how) if how == "stopped" else how
        metrics.current().count("dti_attempts_total", cause=cause)
        with _ids(attempt):
            log.info("attempt over", attempt=attempt.number, cause=cause, reason=reason[:300])

    def broke(self, attempt: Attempt, error: Exception) -> None:
        """An engine, or this process, did what nobody has foreseen."""
        with _ids(attempt):
            log.error("generating broke", error=f"{type(error).__name__}: {error}"[:300])

    def refused(self, model: str, error: NoEngineError) -> None:
        """Engines have no room, or there are none; it is tried again."""
        now = time.monotonic()
        if now - self._said.get(model, float("-inf")) >= _BETWEEN_WORDS:
            self._said[model] = now
            log.info("engines are waited for", model=model, reason=str(error)[:300])

    def unwritten(self, attempt: Attempt, error: Exception) -> None:
        """Something of an attempt could not be written, in the end."""
        with _ids(attempt):
            log.warning("not written", attempt=attempt.number, error=str(error)[:300])

    def trouble(self, error: Exception) -> None:
        """The store did not answer; it is tried again."""
        log.warning("trouble with the store", error=f"{type(error).__name__}: {error}"[:300])

    def lease_lost(self, worker: str) -> None:
        """Others hold this dispatcher for dead."""
        metrics.current().count("dti_lease_losses_total")
        log.warning("lease lost", worker=worker)


def _ids(attempt: Attempt):
    return logs.bound(job=attempt.keys.job, item=str(attempt.item_ref.index))
