"""An engine on a port of its own, for tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from pydantic import JsonValue

from dti_engine.errors import DTIError
from dti_engine.text.tokens import LearnedToken
from services.contracts.generation import (
    EVENT,
    Event,
    FailureEvent,
    ImageEvent,
    ImageSpec,
    Rejection,
)
from services.inference.engine import Engine, SafetyChecker
from services.inference.http import create_app
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

SECRET = "a secret between two processes"


@dataclass
class Resolved:
    tokens: dict[str, LearnedToken]
    origins: dict[str, JsonValue]


@dataclass
class FakeResolver:
    """Resolves tenants' tokens by name. Implements `TokenResolver`."""

    tokens: dict[tuple[str, str], LearnedToken | DTIError] = field(
        default_factory=dict[tuple[str, str], LearnedToken | DTIError]
    )

    def resolve(self, tenant: str, image: ImageSpec) -> Resolved:
        resolved = Resolved({}, {})
        for placeholder, name in image.tokens.items():
            found = self.tokens[tenant, name]
            if isinstance(found, DTIError):
                raise found
            resolved.tokens[placeholder] = found
            resolved.origins[placeholder] = {"sha256": name}
        return resolved


@dataclass
class EngineServer:
    """A running engine."""

    url: str
    resolver: FakeResolver
    scheduler: BatchScheduler

    def post(self, body: Any, secret: str = SECRET, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.post(f"{self.url}/generate", json=body, headers=headers, timeout=60, **options)

    def events(self, *images: dict[str, Any], tenant: str = "ann", **options: Any) -> list[Event]:
        response = self.post({"tenant": tenant, "images": images, **options})
        assert response.status_code == 200, response.text
        return [EVENT.validate_json(line) for line in response.text.splitlines()]

    def ends(self, *images: dict[str, Any], **options: Any) -> dict[int, ImageEvent | FailureEvent]:
        events = self.events(*images, **options)
        return {each.image: each for each in events if isinstance(each, ImageEvent | FailureEvent)}

    def rejection(self, status: int, *images: dict[str, Any], **options: Any) -> Rejection:
        response = self.post({"tenant": "ann", "images": images, **options})
        assert response.status_code == status, response.text
        return Rejection.model_validate_json(response.content)


def allow_all(image: object) -> None:
    """Withhold no image."""


@contextmanager
def serve_engine(
    model: Any, check: SafetyChecker = allow_all, **settings: Any
) -> Iterator[EngineServer]:
    """Serve an engine until the context ends."""
    scheduler = BatchScheduler(model, BatchSchedulerSettings(**settings))
    scheduler.start()
    resolver = FakeResolver()
    app = create_app(Engine(model, resolver, scheduler, check), SECRET)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield EngineServer(f"http://127.0.0.1:{port}/engines/tiny", resolver, scheduler)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
