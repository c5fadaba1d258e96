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
    """What it does next is set from outside, from any thread."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, GenerateRequest]] = []
        """Model and request of each."""
        self.answer: Response | None = None
        """In place of images."""
        self.failing: dict[int, tuple[str, str]] = {}
        """Index -> class and words of its error."""
        self.dies = False
        """Before the last image."""
        self.warnings: tuple[str, ...] = ()
        self.may_end = threading.Event()
        """Whether images are done, or stay at their first step."""
        self.may_end.set()
        self.at_work = 0
        self.left = 0
        """Requests whose caller was gone before the end."""
        self.app = Starlette(
            routes=[Route("/engines/{model}/generate", self._generate, methods=["POST"])]
        )

    def refuse(self, status: int, error: str, detail: str, seconds: float | None = None) -> None:
        refusal = Rejection(error=error, detail=detail, retry_after_s=seconds)
        self.answer = JSONResponse(refusal.model_dump(), status)

    async def _generate(self, request: Request) -> Response:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        wanted = GenerateRequest.model_validate_json(await request.body())
        self.asked.append((request.path_params["model"], wanted))
        return self.answer or StreamingResponse(self._lines(wanted))

    async def _lines(self, wanted: GenerateRequest) -> AsyncIterator[str]:
        self.at_work += 1
        ended = False
        try:
            for index, image in enumerate(wanted.images):
                async for event in self._events(index, image, wanted):
                    yield event.model_dump_json() + "\n"
            ended = True
        finally:
            self.at_work -= 1
            self.left += not ended

    async def _events(
        self, index: int, image: ImageSpec, wanted: GenerateRequest
    ) -> AsyncIterator[Any]:
        for step in range(1, image.steps + 1):
            if wanted.progress or wanted.previews:
                shown = bool(wanted.previews) and step % wanted.previews == 0
                preview = _file(image, "JPEG") if shown else None
                yield StepEvent(image=index, step=step, steps=image.steps, preview=preview)
            while not self.may_end.is_set():
                await asyncio.sleep(0.01)
        if self.dies and index == len(wanted.images) - 1:
            raise ConnectionError("as told")
        if index in self.failing:
            error, detail = self.failing[index]
            yield FailureEvent(image=index, error=error, detail=detail)
            return
        settings = {"prompt": image.prompt, "seed": image.seed, "steps": image.steps}
        png = _file(image, "PNG")
        yield ImageEvent(image=index, png=png, settings=settings, warnings=self.warnings)


def colour(seed: int) -> tuple[int, int, int]:
    """That an image of this seed is of."""
    return seed % 251, seed % 241, seed % 239


def _file(image: ImageSpec, form: str) -> bytes:
    file = io.BytesIO()
    size = image.width or 64, image.height or 64
    Image.new("RGB", size, colour(image.seed)).save(file, form)
    return file.getvalue()


@contextmanager
def stub_engine() -> Iterator[tuple[StubEngine, str]]:
    """A running one, and the URL before the names of models."""
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
        engine.may_end.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
