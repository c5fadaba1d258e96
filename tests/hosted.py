"""The service as its clients meet it: the app by uvicorn over a store, and a worker that plays."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stub_engine import SECRET

from dti_engine.errors import DTIError
from services.api.app import create_app
from services.api.server import Server
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.client.client import Client
from services.client.config import ServerConfig
from services.contracts.models import MINIATURE
from services.ledger import aliases
from services.ledger.ids import token_id
from services.ledger.ledger import Ledger
from services.ledger.worker import WorkerSession
from services.settings import ApiSettings, LedgerSettings, ServerSettings
from services.storage.interface import Store

STEPS = 3


class Hosted:
    """One service. `start` and `stop` are of its API, which keeps its address."""

    def __init__(self, store: Store, slots: int = 4, engines: str | None = None) -> None:
        """engines: where those of `stub_engine` are."""
        self.store, self._engines = store, engines
        self.ledger = Ledger.open(store, LedgerSettings(lease_s=60, poll_interval_s=0.001))
        self.failing: dict[str, str] = {}
        """Items that fail, and why."""
        self.may_end = threading.Event()
        """Whether items end, or stay at their last step."""
        self.may_end.set()
        self.begun: list[str] = []
        self.models = MINIATURE
        """From the next start on."""
        self._slots, self._port, self._worker_stops = slots, 0, threading.Event()
        self._server: Server | None = None
        self.key = create_key(store, "acme").credential
        set_limits(store, "acme", {"requests_per_second": 100_000, "burst": 1_000_000})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def access(self) -> ServerConfig:
        return ServerConfig(self.url, self.key)

    @property
    def environment(self) -> dict[str, str]:
        return {"DTI_SERVER": self.url, "DTI_API_KEY": self.key}

    def client(self, **how: object) -> Client:
        return Client.at(self.access, **how)

    def start(self) -> None:
        settings = ApiSettings(
            event_poll_interval_s=0.02,
            keepalive_interval_s=0.2,
            quota_cache_ttl_s=0,
            engines_url=self._engines,
        )
        app = create_app(self.ledger, self.models, settings=settings, engine_secret=SECRET)
        self._server = Server(app, ServerSettings(port=self._port), grace_s=30)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_until(lambda: self._server and self._server.started)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self, *, at_once: bool = False) -> None:
        """at_once: whatever it is sending."""
        if self._server:
            if at_once:
                self._server.force_exit = True
            else:
                self._server.release()
            self._server.should_exit = True
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._server = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run a worker until the context is left."""
        self._worker_stops.clear()
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._worker_stops.set()
            thread.join(20)
            assert not thread.is_alive()

    def _work(self) -> None:
        worker = WorkerSession(self.ledger, "miniature", rng=random.Random(1))
        worker.begin()
        steps = {}
        while not self._worker_stops.is_set():
            for attempt in worker.claim(self._slots):
                steps[attempt] = 0
                self.begun.append(attempt.item.name)
            for attempt in list(steps):
                name, tenant, place = attempt.item.name, attempt.keys.tenant, attempt.item_ref
                if attempt.stop_reason:
                    attempt.abandon()
                elif steps[attempt] < STEPS:
                    steps[attempt] += 1
                    progress = {"step": steps[attempt], "steps": STEPS, "loss": 0.5}
                    attempt.report_progress({**progress, "phase": "training"})
                    continue
                elif not self.may_end.is_set():
                    continue
                elif name in self.failing:
                    attempt.fail(self.failing[name], retry=False)
                else:
                    token = token_id(attempt.keys.job, place.round, place.index)
                    aliases.add(self.store, tenant, name, token)
                    attempt.succeed(
                        f"token of {name}".encode(),
                        {"placeholder": f"<{name}>", "subject_score": 0.75},
                    )
                del steps[attempt]
            worker.heartbeat()
            time.sleep(0.01)
        for attempt in steps:
            try:
                attempt.release("stopped")
            except DTIError:
                attempt.abandon()
        worker.end()


@contextmanager
def hosted(store: Store, slots: int = 4, engines: str | None = None) -> Iterator[Hosted]:
    """Yield a service whose API runs."""
    service = Hosted(store, slots, engines)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def wait_until(holds: Callable[[], object], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.01)


def make_bundle(folder: Path, seed: int, images: int = 3, description: str = "{}") -> Path:
    """Return a folder of images that are accepted."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(images):
        pixels = random.integers(256, size=(32, 32 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "bundle.json").write_text(description)
    return folder
