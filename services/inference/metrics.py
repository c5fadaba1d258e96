"""What happens in a batcher, counted and logged."""

import time

from dti_engine.errors import DTIError
from services import logs, metrics
from services.errors import NoEngineError, QueueFullError
from services.inference.scheduler.request import Events, Ticket

log = logs.logger(__name__)


class Counting(Events):
    """By the table of metrics, and as lines of the log."""

    def joined(self, tickets: int, beside: int, seconds: float) -> None:
        counted = metrics.current()
        counted.observe("dti_picture_wait_seconds", seconds)
        counted.count("dti_pictures_joined_total", tickets, beside="others" if beside else "none")

    def stepped(self, seconds: float, pictures: int, cap: int) -> None:
        counted = metrics.current()
        counted.observe("dti_denoise_step_seconds", seconds)
        counted.count("dti_picture_steps_total", pictures)
        counted.set("dti_batch_fill", pictures / cap)

    def decoded(self, seconds: float, pictures: int) -> None:
        metrics.current().observe("dti_decode_seconds", seconds)

    def ended(self, ticket: Ticket, error: DTIError | None) -> None:
        counted = metrics.current()
        counted.observe("dti_picture_seconds", time.monotonic() - ticket.entered)
        counted.count("dti_pictures_total", outcome="failed" if error else "painted")
        if error:
            log.warning("picture failed", tenant=ticket.tenant, error=str(error)[:300])

    def dropped(self, ticket: Ticket) -> None:
        outcome = "left" if ticket.gone else "late"
        metrics.current().count("dti_pictures_total", outcome=outcome)

    def waiting(self, pictures: int) -> None:
        metrics.current().set("dti_pictures_waiting", pictures)

    def shrunk(self, cap: int) -> None:
        log.warning("memory ran out", pictures=cap)

    def broke(self, error: Exception) -> None:
        log.error("device broke", error=str(error)[:300])


def count_refusal(error: DTIError) -> None:
    """Of a whole request, of which nothing was begun."""
    reason = "invalid"
    if isinstance(error, QueueFullError):
        reason = "full"
    elif isinstance(error, NoEngineError):
        reason = "stopping"
    metrics.current().count("dti_paint_refusals_total", reason=reason)
