"""Engines over real HTTP, in tests."""

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
from services.contracts.generation import EVENT, Event, Failed, Painted, Picture, Refusal
from services.inference.engine import Check, Engine
from services.inference.http import create_app
from services.inference.metrics import Counting
from services.inference.scheduler.scheduler import Batcher, BatcherSettings

SECRET = "a secret between two processes"


@dataclass
class Known:
    tokens: dict[str, LearnedToken]
    origins: dict[str, JsonValue]


@dataclass
class Shelf:
    """Implements `Tokens`: tenants' tokens by name."""

    tokens: dict[tuple[str, str], LearnedToken | DTIError] = field(
        default_factory=dict[tuple[str, str], LearnedToken | DTIError]
    )

    def resolve(self, tenant: str, picture: Picture) -> Known:
        known = Known({}, {})
        for placeholder, name in picture.tokens.items():
            found = self.tokens[tenant, name]
            if isinstance(found, DTIError):
                raise found
            known.tokens[placeholder] = found
            known.origins[placeholder] = {"sha256": name}
        return known


@dataclass
class Listening:
    """An engine that answers."""

    url: str
    shelf: Shelf
    batcher: Batcher

    def post(self, body: Any, secret: str = SECRET, **how: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.post(f"{self.url}/paint", json=body, headers=headers, timeout=60, **how)

    def events(self, *pictures: dict[str, Any], tenant: str = "ann", **order: Any) -> list[Event]:
        answer = self.post({"tenant": tenant, "pictures": pictures, **order})
        assert answer.status_code == 200, answer.text
        return [EVENT.validate_json(line) for line in answer.text.splitlines()]

    def ends(self, *pictures: dict[str, Any], **order: Any) -> dict[int, Painted | Failed]:
        events = self.events(*pictures, **order)
        return {each.picture: each for each in events if isinstance(each, Painted | Failed)}

    def refusal(self, status: int, *pictures: dict[str, Any], **order: Any) -> Refusal:
        answer = self.post({"tenant": "ann", "pictures": pictures, **order})
        assert answer.status_code == status, answer.text
        return Refusal.model_validate_json(answer.content)


def unchecked(image: object) -> None:
    """All may be shown."""


@contextmanager
def listening(model: Any, check: Check = unchecked, **settings: Any) -> Iterator[Listening]:
    """An engine on a port of its own."""
    batcher = Batcher(model, BatcherSettings(**settings), Counting())
    batcher.start()
    shelf = Shelf()
    app = create_app(Engine(model, shelf, batcher, check), SECRET)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Listening(f"http://127.0.0.1:{port}/engines/tiny", shelf, batcher)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
