"""The engine of one model: validates a request, schedules its images, and streams their events."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from pydantic import JsonValue

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest
from dti_engine.generation.pipeline import image_settings, request_warnings, require_generation
from dti_engine.images.png import encode_image
from dti_engine.text.prompt_check import unmentioned
from dti_engine.text.tokens import LearnedToken
from services import logs
from services.contracts.generation import (
    Event,
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    ImageSpec,
    StepEvent,
)
from services.errors import DeadlineExceededError, UnsafeImageError
from services.inference.scheduler.request_queue import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler

_PREPARE_THREADS = 16
"""Threads that look up tokens: they mostly wait for the store."""

_ENCODE_THREADS = 4
"""Threads that check and encode images: they mostly compute."""

log = logs.logger(__name__)

Finish = Callable[[int, Image.Image], Coroutine[Any, Any, Event]]
"""Makes the event of a generated image, given its index. Raises DTIError if it may not be shown."""

SafetyChecker = Callable[[Image.Image], str | None]
"""Returns the reason to withhold an image, or None."""


class ResolvedTokens(Protocol):
    """The tokens that an image's placeholders stand for."""

    @property
    def tokens(self) -> Mapping[str, LearnedToken]: ...

    @property
    def origins(self) -> Mapping[str, JsonValue]:
        """Return which tokens these are, for the settings of the image."""
        ...


class TokenResolver(Protocol):
    """Resolves placeholders. Thread-safe."""

    def resolve(self, tenant: str, image: ImageSpec, /) -> ResolvedTokens:
        """Return the tokens of an image. Raise DTIError if one cannot be used."""
        ...


class EventStream:
    """The events of one request. Belongs to one event loop."""

    def __init__(self, finish: Finish) -> None:
        self.requests: list[ScheduledRequest] = []
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Event]] = set()

    async def events(self) -> AsyncGenerator[Event]:
        """Yield events until every image has ended, then close the stream."""
        unfinished = len(self.requests)
        try:
            while unfinished:
                event = await self._events.get()
                unfinished -= not isinstance(event, StepEvent)
                yield event
        finally:
            self.close()

    def close(self) -> None:
        """Cancel the images that are not done."""
        for request in self.requests:
            request.cancelled = True
        # The requests refer to this stream by their callbacks. Without that reference cycle, they
        # and their images are freed at once rather than by the garbage collector.
        self.requests = []

    def send(self, event: Event) -> None:
        """Add an event. May be called from any thread."""
        self._call_in_loop(lambda: self._events.put_nowait(event))

    def end_image(self, index: int, result: Image.Image | DTIError) -> None:
        """Finish an image and add its last event. May be called from any thread."""
        if isinstance(result, DTIError):
            self.send(_failure(index, result))
        else:
            self._call_in_loop(lambda: self._start_finishing(index, result))

    def _call_in_loop(self, call: Callable[[], None]) -> None:
        # A closed loop raises RuntimeError; then there is no caller left.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _start_finishing(self, index: int, image: Image.Image) -> None:
        task = asyncio.create_task(self._finish(index, image))
        # The loop keeps only weak references to its tasks, so that one could vanish unfinished.
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._on_finished(index, task))

    def _on_finished(self, index: int, task: asyncio.Task[Event]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # The event loop is being closed, and the client with it.
            return
        # Whatever the error, there has to be a last event: the client waits for one per image.
        if (error := task.exception()) is None:
            self._events.put_nowait(task.result())
            return
        if not isinstance(error, DTIError):
            log.error("image could not be finished", exc_info=error)
            # The text of an unforeseen error may hold internals, which are not for clients.
            error = DTIError(type(error).__name__)
        self._events.put_nowait(_failure(index, error))


def _failure(index: int, error: DTIError) -> FailureEvent:
    return FailureEvent(image=index, error=type(error).__name__, detail=str(error))


class StreamCallbacks:
    """Sends what happens to one image to its stream. Implements `RequestCallbacks`."""

    def __init__(self, stream: EventStream, index: int, steps: int, *, sends_steps: bool) -> None:
        """Create the callbacks of the image at `index`, which takes so many steps."""
        self._stream, self._index, self._steps = stream, index, steps
        self._sends_steps = sends_steps

    def on_step(self, step: int, preview: Image.Image | None) -> None:
        """Send a step event if the request asks for them."""
        if self._sends_steps:
            jpeg = _encode_jpeg(preview) if preview else None
            self._stream.send(
                StepEvent(image=self._index, step=step, steps=self._steps, preview=jpeg)
            )

    def on_end(self, result: Image.Image | DTIError) -> None:
        """Send the last event of the image."""
        self._stream.end_image(self._index, result)


def _encode_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=80)
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class _PreparedImage:
    """A validated image whose tokens are at hand."""

    request: ImageRequest
    size: tuple[int, int]
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...]


class Engine:
    """Generates images with one model. Its coroutines belong to one event loop."""

    def __init__(
        self,
        backbone: Backbone,
        tokens: TokenResolver,
        scheduler: BatchScheduler,
        safety_checker: SafetyChecker = lambda image: None,
    ) -> None:
        self.scheduler = scheduler
        self._backbone = backbone
        self._tokens = tokens
        self._safety_checker = safety_checker
        self._preparers = ThreadPoolExecutor(_PREPARE_THREADS, thread_name_prefix="prepare")
        self._encoders = ThreadPoolExecutor(_ENCODE_THREADS, thread_name_prefix="encode")

    async def generate(self, request: GenerateRequest) -> EventStream:
        """Schedule all images of a request, or none.

        Raises:
            QueueFullError, NoEngineError: The engine takes no more requests, for now or for good.
            DeadlineExceededError: The tokens were not looked up in time.
            DTIError: A token, a prompt or a setting is invalid.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + (request.timeout_s or float("inf"))
        preparations = (
            loop.run_in_executor(self._preparers, self._prepare, request.tenant, image)
            for image in request.images
        )
        try:
            # The threads cannot be interrupted: their lookups go on, and help the next request.
            async with asyncio.timeout(request.timeout_s):
                prepared = await asyncio.gather(*preparations)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"tokens could not be looked up in {request.timeout_s:g} s: ask again"
            ) from error

        async def finish(index: int, image: Image.Image) -> ImageEvent:
            settings, warnings = prepared[index].settings, prepared[index].warnings
            png = await loop.run_in_executor(self._encoders, self._encode, image, settings)
            return ImageEvent(image=index, png=png, settings=settings, warnings=warnings)

        stream = EventStream(finish)
        sends_steps = request.progress or bool(request.previews)
        stream.requests = [
            ScheduledRequest(
                request.tenant,
                image.request,
                spec.steps,
                image.size,
                StreamCallbacks(stream, index, spec.steps, sends_steps=sends_steps),
                deadline,
                isolated=spec.deterministic,
                background=request.background,
                preview_interval=request.previews,
            )
            for index, (image, spec) in enumerate(zip(prepared, request.images, strict=True))
        ]
        self.scheduler.submit(stream.requests)
        return stream

    async def stop(self, timeout_s: float = 60) -> None:
        """Accept no more requests, and finish those that were accepted."""
        # In a thread: the last images are finished in this event loop, which a join would block.
        await asyncio.to_thread(self.scheduler.stop, timeout_s)
        self._preparers.shutdown(wait=False)
        self._encoders.shutdown(wait=False)

    def _prepare(self, tenant: str, spec: ImageSpec) -> _PreparedImage:
        """Look up the tokens of an image, and validate it."""
        resolved = self._tokens.resolve(tenant, spec)
        backbone = self._backbone
        size = spec.height or backbone.image_size, spec.width or backbone.image_size
        backbone.latent_shape(*size)  # Raises ConfigurationError for a size that does not fit.
        request = ImageRequest(
            spec.prompt,
            spec.seed,
            resolved.tokens,
            spec.negative_prompt,
            spec.guidance,
            spec.instruction,
        )
        require_generation(request, backbone)
        settings = image_settings(request, backbone, steps=spec.steps, tokens=resolved.origins) | {
            "height": size[0],
            "width": size[1],
            "deterministic": spec.deterministic,
        }
        texts = [spec.prompt, spec.negative_prompt]
        warnings = [
            *unmentioned(texts, resolved.tokens),
            *request_warnings(request, backbone),
        ]
        return _PreparedImage(request, size, settings, tuple(warnings))

    def _encode(self, image: Image.Image, settings: Mapping[str, JsonValue]) -> bytes:
        """Return an image as PNG. Raise UnsafeImageError if it may not be shown.

        Both the check and the encoding take a while, so that neither the device thread nor the
        event loop may run them.
        """
        try:
            reason = self._safety_checker(image)
        except Exception as error:
            # The checker is the operator's code, so that it may raise anything. An image that was
            # not checked is not shown.
            log.exception("safety checker failed")
            raise UnsafeImageError("this image could not be checked, so it is not shown") from error
        if reason:
            raise UnsafeImageError(f"this image may not be shown: {reason}")
        return encode_image(image, settings)
