"""The engine of one model: validates a request, schedules its images, and streams their events."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from pydantic import JsonValue

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest
from dti_engine.generation.pipeline import encode_image, image_settings, require_generation
from dti_engine.text.prompts import truncated_pieces
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
from services.errors import LateError, UnsafeImageError
from services.inference.scheduler.request import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler

log = logs.logger(__name__)

Finish = Callable[[int, Image.Image], Awaitable[Event]]
"""Makes what is told of an image by its index. Raises: DTIError."""


class Stream:
    """Of one request, in one event loop."""

    def __init__(self, finish: Finish) -> None:
        self.tickets: list[ScheduledRequest] = []
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def events(self) -> AsyncGenerator[Event]:
        """All of them, until the last image has ended. Whoever leaves early is generated for no
        more.
        """
        open_ones = len(self.tickets)
        try:
            while open_ones:
                event = await self._events.get()
                open_ones -= not isinstance(event, StepEvent)
                yield event
        finally:
            self.close()

    def close(self) -> None:
        """Nobody listens any more."""
        for ticket in self.tickets:
            ticket.gone = True
        # They know this stream: without a cycle they go at once, with all that they hold.
        self.tickets = []

    def hear(self, event: Event) -> None:
        """From any thread."""
        self._call(lambda: self._events.put_nowait(event))

    def end(self, index: int, outcome: Image.Image | DTIError) -> None:
        """From any thread."""
        self._call(lambda: self._begin_to_finish(index, outcome))

    def _call(self, do: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # The loop is closed: nobody listens.
            self._loop.call_soon_threadsafe(do)

    def _begin_to_finish(self, index: int, outcome: Image.Image | DTIError) -> None:
        task = asyncio.create_task(self._put_end(index, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _put_end(self, index: int, outcome: Image.Image | DTIError) -> None:
        try:
            if isinstance(outcome, DTIError):
                raise outcome
            event = await self._finish(index, outcome)
        except DTIError as error:
            event = FailureEvent(image=index, error=type(error).__name__, detail=str(error))
        except Exception as error:
            log.exception("image cannot be told of")
            event = FailureEvent(image=index, error="DTIError", detail=type(error).__name__)
        self._events.put_nowait(event)


class StreamCallbacks:
    """Implements `Listener` for one image of a stream."""

    def __init__(self, stream: Stream, index: int, steps: int, *, told: bool) -> None:
        """told: of steps, too."""
        self._stream, self._index, self._steps, self._told = stream, index, steps, told

    def stepped(self, step: int, preview: Image.Image | None) -> None:
        if self._told:
            jpeg = _jpeg(preview) if preview else None
            self._stream.hear(
                StepEvent(image=self._index, step=step, steps=self._steps, preview=jpeg)
            )

    def ended(self, outcome: Image.Image | DTIError) -> None:
        self._stream.end(self._index, outcome)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=80)
    return file.getvalue()


log = logs.logger(__name__)

_READERS = 16  # threads that mostly wait for the store
_ENCODERS = 4  # threads that mostly compute

Check = Callable[[Image.Image], str | None]
"""Says why an image may not be shown; None: it may."""


class ResolvedPrompt(Protocol):
    """What placeholders of an image stand for."""

    @property
    def tokens(self) -> Mapping[str, LearnedToken]: ...

    @property
    def origins(self) -> Mapping[str, JsonValue]:
        """For the image's settings."""
        ...


class TokenResolver(Protocol):
    """Safe to use from many threads."""

    def resolve(self, tenant: str, spec: ImageSpec) -> ResolvedPrompt:
        """Raises: DTIError of whatever is wrong with a token."""
        ...


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image that can be generated."""

    request: ImageRequest
    size: tuple[int, int]
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...]


class Engine:
    """Of one model. Its methods belong to one event loop."""

    def __init__(
        self,
        backbone: Backbone,
        tokens: TokenResolver,
        batcher: BatchScheduler,
        check: Check = lambda image: None,
    ) -> None:
        self.batcher = batcher
        self._backbone = backbone
        self._tokens = tokens
        self._check = check
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encoder")

    async def begin(self, request: GenerateRequest) -> Stream:
        """Have all of its images generated, or none.

        Raises: QueueFullError, NoEngineError, LateError; what is wrong with a token, a prompt or a
            setting.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + (request.timeout_s or float("inf"))
        work = (
            loop.run_in_executor(self._readers, self._prepare, request.tenant, spec)
            for spec in request.images
        )
        try:
            async with asyncio.timeout(request.timeout_s):
                prepared = await asyncio.gather(*work)
        except TimeoutError as error:
            raise LateError(
                f"tokens could not be looked up in {request.timeout_s:g} s: ask again"
            ) from error
        told = request.progress or bool(request.previews)

        async def finish(index: int, image: Image.Image) -> ImageEvent:
            each = prepared[index]
            png = await loop.run_in_executor(self._encoders, self._encode, image, each.settings)
            return ImageEvent(image=index, png=png, settings=each.settings, warnings=each.warnings)

        stream = Stream(finish)
        stream.tickets = [
            ScheduledRequest(
                request.tenant,
                each.request,
                spec.steps,
                each.size,
                StreamCallbacks(stream, index, spec.steps, told=told),
                deadline,
                alone=spec.deterministic,
                background=request.background,
                previews=request.previews,
            )
            for index, (each, spec) in enumerate(zip(prepared, request.images, strict=True))
        ]
        self.batcher.submit(stream.tickets)
        return stream

    async def stop(self, seconds: float = 60) -> None:
        """Take no more, and end what was begun."""
        await asyncio.to_thread(self.batcher.stop, seconds)
        self._readers.shutdown(wait=False)
        self._encoders.shutdown(wait=False)

    def _prepare(self, tenant: str, spec: ImageSpec) -> _Prepared:
        known = self._tokens.resolve(tenant, spec)
        backbone = self._backbone
        size = spec.height or backbone.image_size, spec.width or backbone.image_size
        backbone.latent_shape(*size)  # refuses a size that does not fit
        request = ImageRequest(
            spec.prompt,
            spec.seed,
            known.tokens,
            spec.negative_prompt,
            spec.guidance,
            spec.instruction,
        )
        require_generation(request, backbone)
        unread = truncated_pieces(spec.prompt, known.tokens, backbone.text_encoders)
        settings = image_settings(request, backbone, steps=spec.steps, tokens=known.origins) | {
            "height": size[0],
            "width": size[1],
            "deterministic": spec.deterministic,
        }
        warnings = tuple(
            f"the prompt is too long: {encoder} does not read its last {count} word pieces"
            for encoder, count in unread.items()
        )
        return _Prepared(request, size, settings, warnings)

    def _encode(self, image: Image.Image, settings: Mapping[str, JsonValue]) -> bytes:
        """Not on the device's thread, nor on the loop's: both take a while.

        Raises: UnsafeImageError.
        """
        try:
            reason = self._check(image)
        except Exception as error:  # It is the operator's own code; nothing goes out unseen.
            log.exception("safety check broke")
            raise UnsafeImageError("this image could not be checked, so is not shown") from error
        if reason:
            raise UnsafeImageError(f"this image may not be shown: {reason}")
        return encode_image(image, settings)
