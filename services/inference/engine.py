"""One model that paints for the API: what was asked is checked and put into the batcher, and what
becomes of it goes back as events, as it happens.

What becomes of the pictures of one request, from the device's thread to whoever listens.
"""

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
from dti_engine.generation.pipeline import encode_picture, picture_settings, require_paintable
from dti_engine.text.prompts import unread_pieces
from dti_engine.text.tokens import LearnedToken
from services import logs
from services.contracts.generation import Event, Failed, Painted, PaintRequest, Picture, Stepped
from services.errors import LateError, UnsafePictureError
from services.inference.scheduler.request import Ticket
from services.inference.scheduler.scheduler import Batcher

log = logs.logger(__name__)

Finish = Callable[[int, Image.Image], Awaitable[Event]]
"""Makes what is told of a picture by its index. Raises: DTIError."""


class Stream:
    """Of one request, in one event loop."""

    def __init__(self, finish: Finish) -> None:
        self.tickets: list[Ticket] = []
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def events(self) -> AsyncGenerator[Event]:
        """All of them, until the last picture has ended. Whoever leaves early is painted for no
        more.
        """
        open_ones = len(self.tickets)
        try:
            while open_ones:
                event = await self._events.get()
                open_ones -= not isinstance(event, Stepped)
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
            event = Failed(picture=index, error=type(error).__name__, detail=str(error))
        except Exception as error:
            log.exception("picture cannot be told of")
            event = Failed(picture=index, error="DTIError", detail=type(error).__name__)
        self._events.put_nowait(event)


class Ear:
    """Implements `Listener` for one picture of a stream."""

    def __init__(self, stream: Stream, index: int, steps: int, *, told: bool) -> None:
        """told: of steps, too."""
        self._stream, self._index, self._steps, self._told = stream, index, steps, told

    def stepped(self, step: int, preview: Image.Image | None) -> None:
        if self._told:
            jpeg = _jpeg(preview) if preview else None
            self._stream.hear(
                Stepped(picture=self._index, step=step, steps=self._steps, preview=jpeg)
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
"""Says why a picture may not be shown; None: it may."""


class Known(Protocol):
    """What placeholders of a picture stand for."""

    @property
    def tokens(self) -> Mapping[str, LearnedToken]: ...

    @property
    def origins(self) -> Mapping[str, JsonValue]:
        """For the picture's settings."""
        ...


class Tokens(Protocol):
    """Safe to use from many threads."""

    def resolve(self, tenant: str, picture: Picture) -> Known:
        """Raises: DTIError of whatever is wrong with a token."""
        ...


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A picture that can be painted."""

    request: ImageRequest
    size: tuple[int, int]
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...]


class Engine:
    """Of one model. Its methods belong to one event loop."""

    def __init__(
        self,
        backbone: Backbone,
        tokens: Tokens,
        batcher: Batcher,
        check: Check = lambda image: None,
    ) -> None:
        self.batcher = batcher
        self._backbone = backbone
        self._tokens = tokens
        self._check = check
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encoder")

    async def begin(self, request: PaintRequest) -> Stream:
        """Have all of its pictures painted, or none.

        Raises: QueueFullError, NoEngineError, LateError; what is wrong with a token, a prompt or a
            setting.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + (request.seconds or float("inf"))
        work = (
            loop.run_in_executor(self._readers, self._prepare, request.tenant, picture)
            for picture in request.pictures
        )
        try:
            async with asyncio.timeout(request.seconds):
                prepared = await asyncio.gather(*work)
        except TimeoutError as error:
            raise LateError(
                f"tokens could not be looked up in {request.seconds:g} s: ask again"
            ) from error
        told = request.progress or bool(request.previews)

        async def finish(index: int, image: Image.Image) -> Painted:
            each = prepared[index]
            png = await loop.run_in_executor(self._encoders, self._encode, image, each.settings)
            return Painted(picture=index, png=png, settings=each.settings, warnings=each.warnings)

        stream = Stream(finish)
        stream.tickets = [
            Ticket(
                request.tenant,
                each.request,
                picture.steps,
                each.size,
                Ear(stream, index, picture.steps, told=told),
                deadline,
                alone=picture.deterministic,
                patient=request.patient,
                previews=request.previews,
            )
            for index, (each, picture) in enumerate(zip(prepared, request.pictures, strict=True))
        ]
        self.batcher.submit(stream.tickets)
        return stream

    async def stop(self, seconds: float = 60) -> None:
        """Take no more, and end what was begun."""
        await asyncio.to_thread(self.batcher.stop, seconds)
        self._readers.shutdown(wait=False)
        self._encoders.shutdown(wait=False)

    def _prepare(self, tenant: str, picture: Picture) -> _Prepared:
        known = self._tokens.resolve(tenant, picture)
        backbone = self._backbone
        size = picture.height or backbone.image_size, picture.width or backbone.image_size
        backbone.latent_shape(*size)  # refuses a size that does not fit
        request = ImageRequest(
            picture.prompt,
            picture.seed,
            known.tokens,
            picture.negative_prompt,
            picture.guidance,
            picture.instruction,
        )
        require_paintable(request, backbone)
        unread = unread_pieces(picture.prompt, known.tokens, backbone.text_encoders)
        settings = picture_settings(
            request, backbone, steps=picture.steps, tokens=known.origins
        ) | {"height": size[0], "width": size[1], "deterministic": picture.deterministic}
        warnings = tuple(
            f"the prompt is too long: {encoder} does not read its last {count} word pieces"
            for encoder, count in unread.items()
        )
        return _Prepared(request, size, settings, warnings)

    def _encode(self, image: Image.Image, settings: Mapping[str, JsonValue]) -> bytes:
        """Not on the device's thread, nor on the loop's: both take a while.

        Raises: UnsafePictureError.
        """
        try:
            reason = self._check(image)
        except Exception as error:  # It is the operator's own code; nothing goes out unseen.
            log.exception("safety check broke")
            raise UnsafePictureError(
                "this picture could not be checked, so is not shown"
            ) from error
        if reason:
            raise UnsafePictureError(f"this picture may not be shown: {reason}")
        return encode_picture(image, settings)
