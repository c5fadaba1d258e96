"""A stub engine that generates images of one colour, and can reject, fail, wait and die."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.contracts.generation import (
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    ImageSpec,
    Rejection,
    StepEvent,
)

SECRET = "hush"


class StubEngine:
    """An engine whose behaviour tests set, from any thread."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, GenerateRequest]] = []
        """The model and the body of each request."""
        self.response: Response | None = None
        """What to answer instead of images."""
        self.failures: dict[int, tuple[str, str]] = {}
        """The class and the text of an error, by the index of the image that fails with it."""
        self.png: bytes | None = None
        """What to send instead of images of one colour."""
        self.dies = False
        """Whether the connection breaks before the last image."""
        self.warnings: tuple[str, ...] = ()
        self.may_finish = threading.Event()
        """While this is not set, images stay at their first step."""
        self.may_finish.set()
        self.active = 0
        """The number of requests in progress."""
        self.disconnects = 0
        """The number of requests whose caller left before the end."""
        self.app = Starlette(
            routes=[Route("/engines/{model}/generate", self._generate, methods=["POST"])]
        )

    def reject(
        self, status: int, error: str, detail: str, retry_after_s: float | None = None
    ) -> None:
        """Answer every request with a rejection."""
        rejection = Rejection(error=error, detail=detail, retry_after_s=retry_after_s)
        self.response = JSONResponse(rejection.model_dump(), status)

    async def _generate(self, request: Request) -> Response:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        generate_request = GenerateRequest.model_validate_json(await request.body())
        self.requests.append((request.path_params["model"], generate_request))
        return self.response or StreamingResponse(self._lines(generate_request))

    async def _lines(self, request: GenerateRequest) -> AsyncIterator[str]:
        self.active += 1
        ended = False
        try:
            for index, image in enumerate(request.images):
                async for event in self._events(index, image, request):
                    yield event.model_dump_json() + "\n"
            ended = True
        finally:
            self.active -= 1
            self.disconnects += not ended

    async def _events(
        self, index: int, image: ImageSpec, request: GenerateRequest
    ) -> AsyncIterator[Any]:
        for step in range(1, image.steps + 1):
            if request.progress or request.previews:
                shown = bool(request.previews) and step % request.previews == 0
                preview = _file(image, "JPEG") if shown else None
                yield StepEvent(image=index, step=step, steps=image.steps, preview=preview)
            while not self.may_finish.is_set():
                await asyncio.sleep(0.01)
        if self.dies and index == len(request.images) - 1:
            raise ConnectionError("the stub engine dies")
        if index in self.failures:
            error, detail = self.failures[index]
            yield FailureEvent(image=index, error=error, detail=detail)
            return
        settings = {"prompt": image.prompt, "seed": image.seed, "steps": image.steps}
        png = self.png or _file(image, "PNG")
        yield ImageEvent(image=index, png=png, settings=settings, warnings=self.warnings)


def colour(seed: int) -> tuple[int, int, int]:
    """Return the colour of all pixels of an image with this seed."""
    return seed % 251, seed % 241, seed % 239


def _file(image: ImageSpec, form: str) -> bytes:
    file = io.BytesIO()
    size = image.width or 64, image.height or 64
    Image.new("RGB", size, colour(image.seed)).save(file, form)
    return file.getvalue()


@contextmanager
def stub_engine() -> Iterator[tuple[StubEngine, str]]:
    """Run a stub engine, and yield it with the base URL of the engines."""
    engine = StubEngine()
    config = uvicorn.Config(
        engine.app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        ends = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < ends
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield engine, f"http://127.0.0.1:{port}/engines"
    finally:
        engine.may_finish.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
