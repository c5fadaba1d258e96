"""What becomes of the pictures of one request, from the device's thread to whoever listens."""

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from PIL import Image

from dti_engine.errors import DTIError
from services import logs
from services.inference.batching.tickets import Ticket
from services.pictures import Event, Failed, Stepped

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
