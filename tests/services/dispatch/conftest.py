"""Dispatchers with a ledger in memory and a stub engine."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stub_engine import SECRET, StubEngine, stub_engine

from services.contracts.generation import GenerationJobSpec, ImageItem, PromptSpec, TokenBinding
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import MINIATURE, generation_pool
from services.dispatch.dispatcher import Dispatcher
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.ledger.queries import ItemView, JobView, list_items, read_image, view_job
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.settings import LedgerSettings
from services.storage.memory import MemoryStore


class DispatchHarness:
    """A ledger with generation jobs, and dispatchers that work on them."""

    def __init__(self, engine: StubEngine, url: str) -> None:
        self.engine, self.url = engine, url
        self.store = MemoryStore()
        self.ledger = Ledger.open(self.store, LedgerSettings(lease_s=2, poll_interval_s=0.02))

    def submit(self, count: int, key: str = "k", **options: Any) -> str:
        """Submit a job of so many images, whose seeds are their indices, and return its id."""
        tokens = {"<x>": options.pop("token")} if "token" in options else {}
        spec = GenerationJobSpec(
            model="miniature",
            prompts=(PromptSpec(prompt="a red dog"),),
            variants=(TokenBinding(tokens=tokens),),
            common={"steps": 2},
        )
        request = JobRequest(
            kind="generation",
            pool=generation_pool("miniature"),
            items=tuple(
                JobItem(
                    name=f"{seed:04d}",
                    work=ImageItem(prompt=0, variant=0, seed=seed).model_dump(),
                )
                for seed in range(count)
            ),
            shared=spec.model_dump(mode="json"),
            **options,
        )
        return submit(self.ledger, "acme", key, request).job

    def dispatcher(self, ledger: Ledger | None = None, **options: Any) -> Dispatcher:
        url = options.pop("url", self.url)
        return Dispatcher(
            ledger or self.ledger, MINIATURE, lambda: EngineClient(url, SECRET, 2.0), **options
        )

    @contextmanager
    def running(self, *dispatchers: Dispatcher) -> Iterator[None]:
        """Run dispatchers, and drain them at the end."""
        threads = [threading.Thread(target=each.run) for each in dispatchers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for each in dispatchers:
                each.drain()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()

    def recover(self) -> None:
        """Run one pass of the ledger's recovery."""
        Recovery(self.ledger).recover()

    def job(self, job: str) -> JobView:
        return view_job(self.ledger, "acme", job)

    def items(self, job: str) -> tuple[ItemView, ...]:
        return list_items(self.ledger, "acme", job).items

    def png(self, job: str, index: int) -> bytes:
        return read_image(self.ledger, "acme", job, index).payload

    def wait_until_ended(self, job: str, timeout_s: float = 30) -> JobView:
        until(lambda: self.job(job).state.ended, timeout_s)
        return self.job(job)


def until(holds: Callable[[], Any], timeout_s: float = 30) -> None:
    ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends, "the condition never held"
        time.sleep(0.01)


@pytest.fixture
def harness() -> Iterator[DispatchHarness]:
    with stub_engine() as (engine, url):
        yield DispatchHarness(engine, url)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Return `until`, called as wait_for(lambda: ..., timeout_s)."""
    return until
