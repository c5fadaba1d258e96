"""Metrics and log lines of an engine."""

import time

from dti_engine.errors import DTIError
from services import logs, metrics
from services.errors import NoEngineError, QueueFullError
from services.inference.scheduler.request_queue import ScheduledRequest

log = logs.logger(__name__)


class EngineMetrics:
    """Counts what happens in a scheduler. Called from its device thread; must not raise."""

    def joined(self, images: int, running: int, wait_s: float) -> None:
        """Record that images join a batch of so many others, after `wait_s` in the queue."""
        recorder = metrics.current()
        recorder.observe("dti_image_queue_seconds", wait_s)
        recorder.count("dti_images_joined_total", images, beside="others" if running else "none")

    def stepped(self, step_s: float, images: int, max_batch_size: int) -> None:
        """Record one denoising step of a batch."""
        recorder = metrics.current()
        recorder.observe("dti_denoise_step_seconds", step_s)
        recorder.count("dti_image_steps_total", images)
        recorder.set("dti_batch_fill_ratio", images / max_batch_size)

    def decoded(self, decode_s: float, images: int) -> None:
        """Record that images were decoded from their latents."""
        metrics.current().observe("dti_decode_seconds", decode_s)

    def image_ended(self, request: ScheduledRequest, error: DTIError | None) -> None:
        """Record that an image is done or has failed."""
        recorder = metrics.current()
        recorder.observe("dti_image_seconds", time.monotonic() - request.queued_at)
        recorder.count("dti_images_total", outcome="failed" if error else "generated")
        if error:
            log.warning("image failed", tenant=request.tenant, error=str(error)[:300])

    def image_dropped(self, request: ScheduledRequest) -> None:
        """Record that an image was dropped: its caller has left, or its deadline has passed."""
        outcome = "cancelled" if request.cancelled else "late"
        metrics.current().count("dti_images_total", outcome=outcome)

    def queued(self, images: int) -> None:
        """Record the length of the queue."""
        metrics.current().set("dti_images_queued", images)

    def batch_shrunk(self, max_batch_size: int) -> None:
        """Record that memory ran out, so that batches become smaller."""
        log.warning("memory ran out: batches become smaller", max_batch_size=max_batch_size)


def count_rejection(error: DTIError) -> None:
    """Count a request that was rejected as a whole."""
    reason = "invalid"
    if isinstance(error, QueueFullError):
        reason = "full"
    elif isinstance(error, NoEngineError):
        reason = "stopping"
    metrics.current().count("dti_engine_rejections_total", reason=reason)
