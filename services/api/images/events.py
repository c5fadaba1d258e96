"""Images as they come about: OpenAI's events, and ours beside them (server-sent events).

Work that is worth doing as long as the caller is there.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from anyio import to_thread
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from dti_engine.errors import DTIError
from services.api.images.request import EngineCall
from services.api.images.response import ImageUrls, data_of, encoded, size_of
from services.api.middleware.openai_errors import error_object
from services.api.problems import answer
from services.contracts.generation import Event, FailureEvent, ImageEvent, StepEvent
from services.engine_client import GenerationStream, rebuild_error

A = TypeVar("A")


async def while_there(receive: Receive, work: Callable[[], Coroutine[Any, Any, A]]) -> A | None:
    """What comes of it; None: the caller has gone, and the work was cancelled. The body of the
    request is to be read before.
    """
    working = asyncio.create_task(work())
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_TYPE = "image_generation."

SCHEMA = {
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


class ImageEventStream(StreamingResponse):
    """Ends with the last image, or when the caller leaves: then the engine is told, too."""

    media_type = "text/event-stream"

    def __init__(
        self, teller: "EventEncoder", generating: GenerationStream, keepalive: float
    ) -> None:
        self._generation = generating
        self._events = _events(teller, generating, keepalive)
        super().__init__(self._events)
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(receive, lambda: self.stream_response(send))
        finally:
            await self._events.aclose()
            await self._generation.close()


class EventEncoder:
    """Says of one request's events what its caller is to hear."""

    def __init__(
        self, asked: EngineCall, partial: int, shelf: ImageUrls | None, request: str
    ) -> None:
        """partial: previews of each image that are told of, at most."""
        self._asked = asked
        self._partial = partial
        self._shelf = shelf
        self._request = request
        self._shown = Counter[int]()
        self._created = int(time.time())

    def tell(self, event: Event) -> list[bytes]:
        """Raises: DTIError."""
        match event:
            case StepEvent():
                return self._stepped(event)
            case ImageEvent():
                return [self._completed(event)]
            case FailureEvent():
                return [self.failed(rebuild_error(event.error, event.detail), event.image)]

    def failed(self, error: DTIError, image: int | None = None) -> bytes:
        try:
            raise error  # So that the log has it, if it is none of the caller's.
        except DTIError:
            problem = json.loads(bytes(answer(self._request, error).body))
        said = {"type": "error", "index": image, "error": error_object(problem)}
        return _event("error", said | {"problem": problem})

    def _stepped(self, event: StepEvent) -> list[bytes]:
        where = {"index": event.image, "step": event.step, "steps": event.steps}
        told = [_typed("progress", where)]
        number = self._shown[event.image]
        if event.preview and event.step < event.steps and number < self._partial:
            self._shown[event.image] += 1
            shown = {"b64_json": encoded(event.preview), "partial_image_index": number}
            told.append(_typed("partial_image", shown | where | self._about("jpeg", None)))
        return told

    def _completed(self, event: ImageEvent) -> bytes:
        data = data_of(self._asked, event, self._shelf).model_dump(mode="json")
        warnings = list(dict.fromkeys((*self._asked.warnings, *event.warnings)))
        more = {"index": event.image, "model": self._asked.model, "warnings": warnings}
        about = self._about("png", size_of(event.png))
        return _typed("completed", data | more | about | {"usage": None})

    def _about(self, form: str, size: str | None) -> dict[str, Any]:
        """What OpenAI says with each."""
        image = self._asked.wanted.images[0]
        asked = f"{image.width}x{image.height}" if image.width else "auto"
        return {
            "created_at": self._created,
            "size": size or asked,
            "quality": "auto",
            "background": "opaque",
            "output_format": form,
        }


async def _events(
    teller: EventEncoder, generating: GenerationStream, keepalive: float
) -> AsyncGenerator[bytes]:
    """To the end, with comments where nothing happens. What goes wrong is the last event."""
    async with aclosing(generating.events()) as events:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=keepalive))[0]:
                    yield KEEPALIVE_COMMENT
                if (event := coming.result()) is None:
                    return
                told = await to_thread.run_sync(teller.tell, event)
            except DTIError as error:
                told, event = [teller.failed(error)], None
            finally:
                await _end(coming)
            for one in told:
                yield one
            if event is None:
                return


async def _end(coming: "asyncio.Future[Any]") -> None:
    """Before what it works on is closed."""
    if not coming.done():
        coming.cancel()
        with suppress(asyncio.CancelledError):
            await coming


def _typed(name: str, data: dict[str, Any]) -> bytes:
    return _event(f"{_TYPE}{name}", {"type": f"{_TYPE}{name}"} | data)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")))
