"""Server-sent events of a request for images: OpenAI's events, and a progress event."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from anyio import move_on_after
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from dti_engine.errors import DTIError
from services.api.images.request import EngineCall
from services.api.images.response import ImageUrls, image_data, png_size, to_base64
from services.api.middleware.openai_errors import error_object
from services.api.problems import error_response
from services.contracts.generation import Event, FailureEvent, ImageEvent, StepEvent
from services.engine_client import GenerationStream, rebuild_error

R = TypeVar("R")

_SEND_GRACE_S = 5.0
"""Time beyond the deadline of the images, in which the last events are sent."""

_TYPE = "image_generation."

EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {
            "enum": [f"{_TYPE}{name}" for name in ("progress", "partial_image", "completed")]
            + ["error"]
        },
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


async def run_while_connected(
    receive: Receive, work: Callable[[], Coroutine[Any, Any, R]]
) -> R | None:
    """Run `work` and return its result; cancel it and return None if the client disconnects.

    The body of the request must have been read before.
    """
    working = asyncio.create_task(work())
    disconnecting = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        disconnecting.cancel()
        # Wait for the cancellation, so that the work's own clean-up is complete on return.
        await asyncio.gather(working, disconnecting, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class ImageEventStream(StreamingResponse):
    """A response that ends with the last image; a disconnection also cancels the engine's work."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], stream: GenerationStream) -> None:
        self._stream = stream
        self._events = events
        super().__init__(self._events)
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # A client that does not read must not hold the connection to the engine for longer than
            # its own request may take.
            left_s = self._stream.deadline - asyncio.get_running_loop().time()
            with move_on_after(left_s + _SEND_GRACE_S):
                await run_while_connected(receive, lambda: self.stream_response(send))
        finally:
            await self._events.aclose()
            await self._stream.close()


class EventEncoder:
    """Encodes the engine's events of one request as server-sent events."""

    def __init__(
        self, call: EngineCall, max_previews: int, urls: ImageUrls | None, request_id: str
    ) -> None:
        """Create an encoder that sends at most `max_previews` previews of each image."""
        self._call = call
        self._max_previews = max_previews
        self._urls = urls
        self._request_id = request_id
        self._num_previews = Counter[int]()
        self._created = int(time.time())

    def encode(self, event: Event) -> list[bytes]:
        """Return the server-sent events of an engine event.

        Raises:
            DTIError: The image could not be stored.
        """
        match event:
            case StepEvent():
                return self._encode_step(event)
            case ImageEvent():
                return [self._encode_image(event)]
            case FailureEvent():
                return [self.encode_error(rebuild_error(event.error, event.detail), event.image)]

    def encode_error(self, error: DTIError, image: int | None = None) -> bytes:
        """Return an error event; `image` is the index of the image that failed."""
        try:
            raise error  # The log takes the traceback of a server error from the current exception.
        except DTIError:
            problem = json.loads(bytes(error_response(self._request_id, error).body))
        data = {"type": "error", "index": image, "error": error_object(problem)}
        return _event("error", data | {"problem": problem})

    def _encode_step(self, event: StepEvent) -> list[bytes]:
        step = {"index": event.image, "step": event.step, "steps": event.steps}
        encoded = [_typed_event("progress", step)]
        number = self._num_previews[event.image]
        # Not after the last step: the image itself follows.
        if event.preview and event.step < event.steps and number < self._max_previews:
            self._num_previews[event.image] += 1
            preview = {"b64_json": to_base64(event.preview), "partial_image_index": number}
            fields = preview | step | self._common_fields("jpeg", None)
            encoded.append(_typed_event("partial_image", fields))
        return encoded

    def _encode_image(self, event: ImageEvent) -> bytes:
        data = image_data(self._call, event, self._urls).model_dump(mode="json")
        warnings = list(dict.fromkeys((*self._call.warnings, *event.warnings)))
        ours = {"index": event.image, "model": self._call.model, "warnings": warnings}
        common = self._common_fields("png", png_size(event.png))
        return _typed_event("completed", data | ours | common | {"usage": None})

    def _common_fields(self, output_format: str, size: str | None) -> dict[str, Any]:
        """Return the fields that OpenAI sends with each image."""
        image = self._call.request.images[0]
        requested_size = f"{image.width}x{image.height}" if image.width else "auto"
        return {
            "created_at": self._created,
            "size": size or requested_size,
            "quality": "auto",
            "background": "opaque",
            "output_format": output_format,
        }


async def image_events(
    encoder: EventEncoder,
    stream: GenerationStream,
    encode: Callable[[Event], Awaitable[list[bytes]]],
    keepalive_interval_s: float,
) -> AsyncGenerator[bytes]:
    """Yield all events, with comments while there are none. An error is the last event."""
    async with aclosing(stream.events()) as events:
        while True:
            pending = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({pending}, timeout=keepalive_interval_s))[0]:
                    yield KEEPALIVE_COMMENT
                if (event := pending.result()) is None:
                    return
                encoded = await encode(event)
            except DTIError as error:
                encoded, event = [encoder.encode_error(error)], None
            finally:
                await _cancel(pending)
            for each in encoded:
                yield each
                # The server begins with a part, even an empty one, once the part before has left
                # its memory: only then is the next event read.
                yield b""
            if event is None:
                return


async def _cancel(pending: "asyncio.Future[Any]") -> None:
    """Cancel a step of a generator; until it has ended, the generator cannot be closed."""
    if not pending.done():
        pending.cancel()
        with suppress(asyncio.CancelledError):
            await pending


def _typed_event(name: str, data: dict[str, Any]) -> bytes:
    return _event(f"{_TYPE}{name}", {"type": f"{_TYPE}{name}"} | data)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")))
