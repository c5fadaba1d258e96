"""What happens in a batcher, counted and logged."""

import time

from dti_engine.errors import DTIError
from services import logs, metrics
from services.errors import NoEngineError, QueueFullError
from services.inference.scheduler.request import ScheduledRequest, SchedulerMetrics

log = logs.logger(__name__)


class EngineMetrics(SchedulerMetrics):
    """By the table of metrics, and as lines of the log."""

    def joined(self, tickets: int, beside: int, seconds: float) -> None:
        counted = metrics.current()
        counted.observe("dti_image_wait_seconds", seconds)
        counted.count("dti_images_joined_total", tickets, beside="others" if beside else "none")

    def stepped(self, seconds: float, images: int, cap: int) -> None:
        counted = metrics.current()
        counted.observe("dti_denoise_step_seconds", seconds)
        counted.count("dti_image_steps_total", images)
        counted.set("dti_batch_fill", images / cap)

    def decoded(self, seconds: float, images: int) -> None:
        metrics.current().observe("dti_decode_seconds", seconds)

    def ended(self, ticket: ScheduledRequest, error: DTIError | None) -> None:
        counted = metrics.current()
        counted.observe("dti_image_seconds", time.monotonic() - ticket.entered)
        counted.count("dti_images_total", outcome="failed" if error else "generated")
        if error:
            log.warning("image failed", tenant=ticket.tenant, error=str(error)[:300])

    def dropped(self, ticket: ScheduledRequest) -> None:
        outcome = "left" if ticket.gone else "late"
        metrics.current().count("dti_images_total", outcome=outcome)

    def waiting(self, images: int) -> None:
        metrics.current().set("dti_images_waiting", images)

    def shrunk(self, cap: int) -> None:
        log.warning("memory ran out", images=cap)

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
