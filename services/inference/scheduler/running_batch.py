"""A running batch: images of one size that are denoised together, and isolation of failures."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError, GenerationFailedError
from dti_engine.generation.denoiser import (
    Denoiser,
    DenoisingState,
    Prediction,
    begin,
    decode,
    preview,
    to_image,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from services import logs
from services.errors import DeadlineExceededError
from services.inference.metrics import EngineMetrics
from services.inference.scheduler.request_queue import ScheduledRequest

T = TypeVar("T")

log = logs.logger(__name__)


class DeviceBrokenError(Exception):
    """Raised when no call succeeds on the device any longer; only a new process helps."""


@dataclass(eq=False)
class _RunningImage:
    request: ScheduledRequest
    state: DenoisingState


class EngineResources:
    """The resources that all batches of an engine share: model, prompt cache, schedules."""

    def __init__(self, backbone: Backbone, metrics: EngineMetrics) -> None:
        self.backbone = backbone
        self.metrics = metrics
        self.prompts = PromptCache(backbone)
        self._schedules: dict[int, LinearScheduler] = {}

    def schedule(self, steps: int) -> LinearScheduler:
        """Return the noise schedule of so many steps. Raise ConfigurationError if there is none."""
        if steps not in self._schedules:
            self._schedules[steps] = LinearScheduler.of(self.backbone.new_scheduler(), steps)
        return self._schedules[steps]


class RunningBatch:
    """Images that are denoised together. Only the device thread may use it."""

    def __init__(
        self, resources: EngineResources, max_size: int, shapes: Sequence[int] = ()
    ) -> None:
        """Create an empty batch.

        Args:
            resources: The model and its caches.
            max_size: The largest number of images in one call of the model. It shrinks when memory
                runs out.
            shapes: Row counts that the model is compiled for, as in `Denoiser`.
        """
        self.max_size = max_size
        self.started_at = time.monotonic()
        self._resources = resources
        self._denoiser = Denoiser(resources.backbone, shapes)
        self._images: list[_RunningImage] = []

    def __len__(self) -> int:
        return len(self._images)

    @property
    def free_slots(self) -> int:
        """Return how many images may join."""
        return max(0, self.max_size - len(self._images))

    def add(self, requests: Sequence[ScheduledRequest]) -> None:
        """Encode the prompts of requests, and denoise them from the next step on."""
        self._isolate_failures(self._add, requests, lambda request: request)

    def step(self) -> None:
        """Take one denoising step of each image, then decode and remove the finished ones."""
        # More than one part only after memory ran out: more images run than one call can hold.
        for part in _split(self._images, self.max_size):
            self._isolate_failures(self._step, part, lambda image: image.request)
        if finished := [image for image in self._images if image.state.finished]:
            self._isolate_failures(self._decode, finished, lambda image: image.request)

    def drop_expired(self, now: float) -> None:
        """Remove the images that are cancelled or past their deadline."""
        for request in [i.request for i in self._images if i.request.is_expired(now)]:
            self._remove(request)
            end_expired(request, self._resources.metrics)

    def clear(self) -> list[ScheduledRequest]:
        """Remove all images, and return their requests."""
        requests = [image.request for image in self._images]
        self._images.clear()
        return requests

    def _add(self, requests: Sequence[ScheduledRequest]) -> None:
        resources = self._resources
        added: list[_RunningImage] = []
        for steps in dict.fromkeys(request.steps for request in requests):
            # One call of `begin` has one schedule, that is, one number of steps.
            same_steps = [request for request in requests if request.steps == steps]
            states = begin(
                resources.backbone,
                resources.prompts,
                [request.image for request in same_steps],
                resources.schedule(steps),
                same_steps[0].size,
            )
            added += map(_RunningImage, same_steps, states)
        # Only now, so that a failure at any of them leaves none half added.
        self._images += added

    def _step(self, images: Sequence[_RunningImage]) -> None:
        began = time.monotonic()
        prediction = self._denoiser.step([image.state for image in images])
        self._resources.metrics.stepped(time.monotonic() - began, len(images), self.max_size)
        rows = [row for row, image in enumerate(images) if _is_preview_due(image)]
        previews = self._previews(prediction, rows)
        for row, image in enumerate(images):
            image.request.callbacks.on_step(image.state.steps_done, previews.get(row))

    def _previews(self, prediction: Prediction, rows: Sequence[int]) -> dict[int, Image.Image]:
        """Return previews by row, or none at all: no image fails for want of a preview."""
        try:
            return dict(zip(rows, preview(prediction, rows), strict=True)) if rows else {}
        except (RuntimeError, MemoryError, GenerationFailedError) as error:
            _raise_if_device_broken(error)
            log.warning("previews failed", images=len(rows), exc_info=error)
            return {}

    def _decode(self, images: Sequence[_RunningImage]) -> None:
        began = time.monotonic()
        results: list[tuple[ScheduledRequest, Image.Image | DTIError]] = []
        decoded = decode(self._resources.backbone, [image.state for image in images])
        for image, pixels in zip(images, decoded, strict=True):
            try:
                results.append((image.request, to_image(pixels)))
            except GenerationFailedError as error:
                results.append((image.request, error))
        self._resources.metrics.decoded(time.monotonic() - began, len(images))
        for request, result in results:
            self._end(request, result)

    def _isolate_failures(
        self,
        call: Callable[[Sequence[T]], None],
        items: Sequence[T],
        request_of: Callable[[T], ScheduledRequest],
    ) -> None:
        """Call a function with all items; if it fails, bisect them until each failure is alone.

        So one image that cannot be generated fails without the others. When memory runs out, the
        images are only too many at once: the batch shrinks, and the halves are tried.
        """
        try:
            call(items)
            return
        except Exception as error:
            # Torch and the model's code raise errors of any type. All are handled alike: tried with
            # fewer images, until the one that causes the error is alone.
            _raise_if_device_broken(error)
            if devices.is_out_of_memory(error) and len(items) > 1:
                self.max_size = min(self.max_size, max(1, len(items) // 2))
                self._resources.metrics.batch_shrunk(self.max_size)
            elif not isinstance(error, DTIError):
                log.warning("batch failed", images=len(items), exc_info=error)
            if len(items) == 1:
                self._end(request_of(items[0]), _to_dti_error(error))
                return
        # After the handler: until it ends, the traceback keeps the tensors of the failed call.
        devices.release_memory(self._resources.backbone.device)
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            self._isolate_failures(call, half, request_of)

    def _end(self, request: ScheduledRequest, result: Image.Image | DTIError) -> None:
        self._remove(request)
        error = result if isinstance(result, DTIError) else None
        self._resources.metrics.image_ended(request, error)
        request.callbacks.on_end(result)

    def _remove(self, request: ScheduledRequest) -> None:
        # A new list: callers may be iterating over the present one.
        self._images = [image for image in self._images if image.request is not request]


def end_expired(request: ScheduledRequest, metrics: EngineMetrics) -> None:
    """Count a request that expired, and tell its caller unless it has left."""
    metrics.image_dropped(request)
    if not request.cancelled:
        request.callbacks.on_end(
            DeadlineExceededError("the image was not done before its deadline")
        )


def _split(images: Sequence[_RunningImage], size: int) -> Iterator[Sequence[_RunningImage]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _is_preview_due(image: _RunningImage) -> bool:
    interval, done = image.request.preview_interval, image.state.steps_done
    return bool(interval) and done % interval == 0 and not image.state.finished


def _to_dti_error(error: Exception) -> DTIError:
    if isinstance(error, DTIError):
        return error
    if devices.is_out_of_memory(error):
        return GenerationFailedError("memory ran out with this image alone: ask for a smaller one")
    return GenerationFailedError(f"the model failed at this image: {type(error).__name__}")


def _raise_if_device_broken(error: Exception) -> None:
    """Raise DeviceBrokenError for a CUDA error that every later call of the process repeats."""
    if isinstance(error, DeviceBrokenError):
        raise error
    # Such an error stays: CUDA repeats it at every later call of the process.
    if isinstance(error, torch.AcceleratorError) and not devices.is_out_of_memory(error):
        raise DeviceBrokenError(str(error)) from error
