"""The app over a store in memory, two tenants with keys, and workers that do what it took on."""

import hashlib
import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
import torch
from fastapi.testclient import TestClient
from stub_engine import SECRET, StubEngine, stub_engine

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.text.tokens import LearnedToken
from services.api.app import create_app
from services.api.images.store import ImageStore
from services.api.server import Server
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.contracts.models import MINIATURE
from services.ledger import aliases
from services.ledger.attempts import Attempt
from services.ledger.ids import token_id
from services.ledger.ledger import Ledger
from services.ledger.worker import WorkerSession
from services.settings import ApiSettings, LedgerSettings, ServerSettings
from services.storage.interface import Store
from services.storage.memory import MemoryStore

FAST = ApiSettings(event_poll_interval_s=0.02, keepalive_interval_s=0.2, quota_cache_ttl_s=0)


def _fast(**changes: Any) -> ApiSettings:
    return ApiSettings.model_validate(FAST.model_dump() | changes)


def artifact(name: str) -> bytes:
    """Return the file of a token, as a worker writes it."""
    rows = {"text_encoder": torch.full((1, 4), 0.5)}
    token = LearnedToken(f"<{name}>", rows, "eos")
    origin = ImportedOrigin(format_name="test", pooling="eos", files={})
    return Artifact.of(token, model="tiny", fingerprint="0" * 64, origin=origin).to_bytes()


class Site:
    """A running app, as its operator and its tenants have it."""

    def __init__(self, store: Store | None = None, **how: Any) -> None:
        self.store = store or MemoryStore()
        self.ledger = Ledger.open(self.store, LedgerSettings(lease_s=60, poll_interval_s=0.001))
        settings = how.pop("settings", FAST)
        self.app = create_app(self.ledger, how.pop("models", MINIATURE), settings=settings, **how)
        self.keys: dict[str, str] = {}
        self.client = TestClient(self.app, raise_server_exceptions=False)
        for tenant in ("acme", "other"):
            self.keys[tenant] = create_key(self.store, tenant).credential
            self.limit(tenant, requests_per_second=100_000, burst=1_000_000)

    @property
    def images(self) -> ImageStore:
        return self.app.state.service.images

    def limit(self, tenant: str, **limits: Any) -> None:
        set_limits(self.store, tenant, limits)

    def generate(self, tenant: str | None = "acme", **body: Any) -> Any:
        """Images, where an engine is."""
        return self.post("/v1/images/generations", {"prompt": "a <rex>", "steps": 2} | body, tenant)

    def keep(self, tenant: str = "acme") -> tuple[str, str]:
        """Store an image and return its id and its link."""
        answer = self.generate(tenant, response_format="url")
        assert answer.status_code == 200, answer.text
        [data] = answer.json()["data"]
        return data["id"], data["url"]

    def headers(self, tenant: str | None = "acme") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"} if tenant else {}

    def ask(self, method: str, path: str, tenant: str | None = "acme", **how: Any) -> Any:
        headers = self.headers(tenant) | how.pop("headers", {})
        return self.client.request(method, path, headers=headers, **how)

    def get(self, path: str, tenant: str | None = "acme", **how: Any) -> Any:
        return self.ask("GET", path, tenant, **how)

    def post(self, path: str, body: Any = None, tenant: str | None = "acme", **how: Any) -> Any:
        return self.ask("POST", path, tenant, json=body, **how)

    def upload(self, body: bytes, tenant: str = "acme") -> str:
        sha256 = hashlib.sha256(body).hexdigest()
        assert self.ask("PUT", f"/v1/uploads/{sha256}", tenant, content=body).status_code == 201
        return sha256

    def subjects(self, *names: str, **how: Any) -> list[dict[str, Any]]:
        return [{"id": name, "bundle": digest(name)} | how for name in names]

    def submit(self, body: Any, tenant: str = "acme", key: str | None = None, **how: Any) -> Any:
        headers = {"Idempotency-Key": key or secrets.token_hex(8)}
        return self.post("/v1/training-jobs", body, tenant, headers=headers, **how)

    def make(self, *names: str, tenant: str = "acme", **how: Any) -> str:
        """Submit a job of subjects with these names."""
        answer = self.submit({"subjects": self.subjects(*names)} | how, tenant)
        assert answer.status_code == 202, answer.text
        return answer.json()["job"]

    def order_of(self, body: Any, tenant: str = "acme", key: str | None = None) -> Any:
        """Return the response to a generation job."""
        headers = {"Idempotency-Key": key or secrets.token_hex(8)}
        return self.post("/v1/generation-jobs", body, tenant, headers=headers)

    def order(self, body: Any, tenant: str = "acme") -> str:
        """Submit a generation job."""
        answer = self.order_of(body, tenant)
        assert answer.status_code == 202, answer.text
        return answer.json()["job"]

    def worker(self, pool: str = "miniature") -> WorkerSession:
        worker = WorkerSession(self.ledger, pool, rng=random.Random(1))
        worker.begin()
        return worker

    def work_off(self, fail: Callable[[Attempt], str] = lambda attempt: "") -> int:
        """Learn all there is, and how much that was. `fail` gives a reason for those that fail."""

        def learn(attempt: Attempt) -> None:
            name, tenant, place = attempt.item.name, attempt.keys.tenant, attempt.item_ref
            token = token_id(attempt.keys.job, place.round, place.index)
            aliases.add(self.store, tenant, name, token)
            attempt.succeed(artifact("token"), {"placeholder": f"<{name}>", "steps": 2})

        return self._do_all("miniature", learn, fail)

    def generate_off(self, fail: Callable[[Attempt], str] = lambda attempt: "") -> int:
        """Return the same facts of a generation job."""

        def generate(attempt: Attempt) -> None:
            attempt.succeed(b"\x89PNG of " + attempt.item.name.encode(), {"seed": 1})

        return self._do_all("generate-miniature", generate, fail)

    def _do_all(
        self, pool: str, do: Callable[[Attempt], None], fail: Callable[[Attempt], str]
    ) -> int:
        worker, done, idle = self.worker(pool), 0, 0
        while idle < 3:
            worker.heartbeat()
            attempts = worker.claim(16)
            for attempt in attempts:
                done += 1
                if reason := fail(attempt):
                    attempt.fail(reason, retry=False)
                else:
                    do(attempt)
            idle = 0 if attempts else idle + 1
            time.sleep(0 if attempts else 0.02)
        worker.end()
        return done

    def tokens(self, job: str, tenant: str = "acme") -> list[str]:
        items = self.get(f"/v1/training-jobs/{job}/items?limit=200", tenant).json()["items"]
        return [item["token"] for item in items if item["token"]]

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the app by uvicorn and yield its URL."""
        with running(self.app) as (url, _):
            yield url


@contextmanager
def running(app: Any) -> Iterator[tuple[str, Server]]:
    server = Server(app, ServerSettings(port=0), grace_s=30)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.release()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def wait_until(holds: Callable[[], Any], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.01)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Name and data of each event; comments are (":", text)."""
    name = ""
    for line in lines:
        if line.startswith(":"):
            yield ":", line
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.client:
        yield site


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    """new_site(store, settings=..., ...) -> another, with settings of its own."""
    made: list[Site] = []

    def make(store: Store | None = None, **how: Any) -> Site:
        made.append(Site(store, **how))
        made[-1].client.__enter__()
        return made[-1]

    yield make
    for site in made:
        site.client.__exit__(None, None, None)


@pytest.fixture
def new_image_site(
    new_site: Callable[..., Site], engine_at: tuple[StubEngine, str]
) -> Callable[..., Site]:
    """new_image_site(store, generation_timeout_s=..., ...) -> a site with `engine`."""

    def make(store: Store | None = None, **settings: Any) -> Site:
        changes = {"engines_url": engine_at[1], **settings}
        return new_site(store, settings=_fast(**changes), engine_secret=SECRET)

    return make


@pytest.fixture
def image_site(new_image_site: Callable[..., Site]) -> Site:
    return new_image_site()


@pytest.fixture
def parts() -> Any:
    """Return the helpers that tests of streams and servers share."""

    class Parts:
        run = staticmethod(running)
        until = staticmethod(wait_until)
        events = staticmethod(events_of)
        sha256 = staticmethod(digest)
        file = staticmethod(artifact)
        http = httpx

    return Parts


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    """One for all tests of a file, with an engine."""
    with stub_engine() as (_, url):
        changes = {"max_body_bytes": 100_000, "max_stream_s": 0.1, "engines_url": url}
        site = Site(settings=_fast(**changes), engine_secret=SECRET)
        with site.client:
            yield site
