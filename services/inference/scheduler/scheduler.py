"""Continuous batching: the device thread and its running batches.

Images join a running batch at any step and leave it when they are done. Images of different sizes
are in different batches, which take turns step by step. While requests of other sizes wait for a
batch, one that has had its share of time takes no more images, so that it ends.
"""

import threading
import time
from dataclasses import dataclass

from dti_engine.backbones.interface import Backbone
from services.errors import NoEngineError
from services.inference.metrics import EngineMetrics
from services.inference.scheduler.request_queue import (
    BatchKey,
    RequestQueue,
    ScheduledRequest,
    is_isolated,
)
from services.inference.scheduler.running_batch import (
    DeviceBrokenError,
    EngineResources,
    RunningBatch,
    end_expired,
)
from services.process import error_boundary

_IDLE_POLL_INTERVAL_S = 0.5
"""How often an idle scheduler looks for a stop; new requests wake it at once."""


@dataclass(frozen=True, slots=True)
class BatchSchedulerSettings:
    """Settings of a scheduler."""

    max_batch_size: int = 8
    """The largest number of images in one call of the model."""
    queue_size: int = 128
    """The largest number of images that wait."""
    max_batches: int = 3
    """The largest number of batches that run at a time."""
    batch_turn_s: float = 5.0
    """How long a batch takes images while requests of other sizes wait for a batch."""
    continuous: bool = True
    """Whether images join running batches; False: a batch stays the same from start to end."""
    shapes: tuple[int, ...] = ()
    """Row counts of the calls of a model that is compiled for each; (): any."""
    watchdog_timeout_s: float = 120.0
    """The time without progress after which the device counts as stuck: far more than a step."""


class BatchScheduler:
    """Generates the images in its queue, from `start` until `stop`."""

    def __init__(
        self,
        backbone: Backbone,
        settings: BatchSchedulerSettings,
        metrics: EngineMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.queue = RequestQueue(settings.queue_size)
        self._metrics = metrics or EngineMetrics()
        self._resources = EngineResources(backbone, self._metrics)
        self._batches: dict[BatchKey, RunningBatch] = {}
        self._max_batch_sizes: dict[BatchKey, int] = {}
        """Sizes that memory was found to be enough for, by image size."""
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._failure: str | None = None
        self._last_progress = time.monotonic()
        self._throughput = _Throughput()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 60) -> None:
        """Accept no more requests, and wait until those in the queue and in batches are done."""
        self._stopping.set()
        self.queue.wake()
        self._thread.join(timeout_s)

    def submit(self, requests: list[ScheduledRequest]) -> None:
        """Put all requests into the queue, or none.

        Raises:
            QueueFullError: The queue has no room now.
            ConfigurationError: The queue never has room for so many.
            NoEngineError: The scheduler has stopped.
        """
        if self._failure or self._stopping.is_set():
            raise NoEngineError("this engine is being stopped: ask again")
        retry_after_s = len(self.queue) * self._throughput.seconds_per_image
        self.queue.put(requests, retry_after_s)
        if self._ended.is_set():
            # The device thread has ended since the check above, and may not have seen these.
            self._reject_queue()

    def unhealthy_reason(self) -> str | None:
        """Return why the engine should be replaced, or None if it is healthy.

        The method does not use the device, because a device that hangs would block it.
        """
        if self._failure:
            return self._failure
        idle_s = time.monotonic() - self._last_progress
        if idle_s > self.settings.watchdog_timeout_s:
            return f"the device has made no progress for {idle_s:.0f} s"
        return None

    def _run(self) -> None:
        with error_boundary("scheduler failed", self._record_failure):
            while not (self._stopping.is_set() and not self._batches and not len(self.queue)):
                self._run_iteration()
        # Before the queue is emptied: a request that `submit` adds afterwards finds this set, and
        # is rejected there. In the other order it could be added in between, and wait for ever.
        self._ended.set()
        for batch in self._batches.values():
            for request in batch.clear():
                request.callbacks.on_end(NoEngineError("this engine broke: ask again"))
        self._reject_queue()

    def _record_failure(self, error: Exception) -> None:
        is_device = isinstance(error, DeviceBrokenError)
        self._failure = str(error) if is_device else f"{type(error).__name__}: {error}"

    def _reject_queue(self) -> None:
        for request in self.queue.clear():
            request.callbacks.on_end(NoEngineError("this engine has stopped: ask again"))

    def _run_iteration(self) -> None:
        """Take one step of each batch, and let requests join before each step."""
        self._drop_expired()
        self._admit()
        self._metrics.queued(len(self.queue))
        # Also without any batch: an engine without requests must not look stuck.
        self._last_progress = time.monotonic()
        for key, batch in list(self._batches.items()):
            began, size_before = time.monotonic(), len(batch)
            batch.step()
            self._last_progress = time.monotonic()
            self._throughput.record(self._last_progress - began, size_before - len(batch))
            # Remembered for the next batch of this size, which would run out of memory again.
            if not is_isolated(key):
                self._max_batch_sizes[key] = batch.max_size
            if not len(batch):
                del self._batches[key]
            # New requests do not wait for the steps of all batches.
            self._admit()
        if not self._batches:
            self.queue.wait(_IDLE_POLL_INTERVAL_S)

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for request in self.queue.drop_expired():
            end_expired(request, self._metrics)
        for batch in self._batches.values():
            batch.drop_expired(now)

    def _admit(self) -> None:
        """Let queued requests join running batches, then start batches of other sizes."""
        waiting_keys = [*self.queue.batch_keys(exclude=self._batches.keys())]
        free_places = self.settings.max_batches - len(self._batches)
        now = time.monotonic()
        for key, batch in self._batches.items():
            has_had_its_turn = now - batch.started_at > self.settings.batch_turn_s
            # Only if the other sizes do not fit beside it: otherwise its end would help none.
            is_closing = len(waiting_keys) > free_places and has_had_its_turn
            if not is_closing and (self.settings.continuous or not len(batch)):
                self._add(batch, self.queue.take(key, batch.free_slots))
        for key in waiting_keys[: max(0, free_places)]:
            batch = RunningBatch(self._resources, self._max_size(key), self.settings.shapes)
            self._add(batch, self.queue.take(key, batch.free_slots))
            # All of them may have failed while their prompts were encoded.
            if len(batch):
                self._batches[key] = batch

    def _max_size(self, key: BatchKey) -> int:
        if is_isolated(key):
            return 1
        return self._max_batch_sizes.get(key, self.settings.max_batch_size)

    def _add(self, batch: RunningBatch, requests: list[ScheduledRequest]) -> None:
        if requests:
            longest_wait_s = time.monotonic() - min(request.queued_at for request in requests)
            self._metrics.joined(len(requests), len(batch), longest_wait_s)
            batch.add(requests)


class _Throughput:
    """An exponential moving average of the time per finished image."""

    def __init__(self) -> None:
        self._seconds, self._images = 1.0, 1.0

    def record(self, step_s: float, images: int) -> None:
        """Record that a step of `step_s` seconds finished so many images."""
        # About the last hundred steps: the load changes within minutes.
        self._seconds = 0.99 * self._seconds + step_s
        self._images = 0.99 * self._images + images

    @property
    def seconds_per_image(self) -> float:
        """Return the average time per image."""
        return self._seconds / max(self._images, 0.1)
