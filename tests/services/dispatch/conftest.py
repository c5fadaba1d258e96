"""Dispatchers over a store in memory, and an engine that generates one colour."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stub_engine import SECRET, StubEngine, stub_engine

from services.contracts.generation import GenerationJobSpec, ImageItem, PromptSpec, TokenBinding
from services.contracts.jobs import Item, JobRequest
from services.contracts.models import MINIATURE, generation_pool
from services.dispatch.dispatcher import Dispatcher
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.ledger.queries import ItemView, JobView, list_items, read_image, view_job
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.settings import LedgerSettings
from services.storage.memory import MemoryStore


class Studio:
    """A ledger with jobs of images, and dispatchers that work for it."""

    def __init__(self, engine: StubEngine, url: str) -> None:
        self.engine, self.url = engine, url
        self.store = MemoryStore()
        self.ledger = Ledger.open(self.store, LedgerSettings(lease_s=2, poll_interval_s=0.02))

    def order(self, count: int, key: str = "k", **how: Any) -> str:
        """A job of so many images, whose seeds are their indices."""
        tokens = {"<x>": how.pop("token")} if "token" in how else {}
        order = GenerationJobSpec(
            model="miniature",
            prompts=(PromptSpec(prompt="a red dog"),),
            variants=(TokenBinding(tokens=tokens),),
            common={"steps": 2},
        )
        request = JobRequest(
            kind="generation",
            pool=generation_pool("miniature"),
            items=tuple(
                Item(
                    name=f"{seed:04d}",
                    work=ImageItem(prompt=0, variant=0, seed=seed).model_dump(),
                )
                for seed in range(count)
            ),
            shared=order.model_dump(mode="json"),
            **how,
        )
        return submit(self.ledger, "acme", key, request).job

    def dispatcher(self, ledger: Ledger | None = None, **how: Any) -> Dispatcher:
        url = how.pop("url", self.url)
        return Dispatcher(
            ledger or self.ledger, MINIATURE, lambda: EngineClient(url, SECRET, 2.0), **how
        )

    @contextmanager
    def at_work(self, *dispatchers: Dispatcher) -> Iterator[None]:
        """They are drained at the end."""
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
        """A turn of the supervisor."""
        Recovery(self.ledger).recover()

    def job(self, job: str) -> JobView:
        return view_job(self.ledger, "acme", job)

    def items(self, job: str) -> tuple[ItemView, ...]:
        return list_items(self.ledger, "acme", job).items

    def png(self, job: str, index: int) -> bytes:
        return read_image(self.ledger, "acme", job, index).payload

    def wait_until_ended(self, job: str, seconds: float = 30) -> JobView:
        until(lambda: self.job(job).state.ended, seconds)
        return self.job(job)


def until(holds: Callable[[], Any], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.01)


@pytest.fixture
def studio() -> Iterator[Studio]:
    with stub_engine() as (engine, url):
        yield Studio(engine, url)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """wait_for(lambda: ..., seconds)"""
    return until
