"""A ledger whose clock only tests move, on a store that tells of every request."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from interruptions import InterruptibleStore

from services.contracts.jobs import Counts, JobItem, JobRequest
from services.ledger.attempts import Attempt
from services.ledger.ids import Ids
from services.ledger.keys import queue_entry_key
from services.ledger.ledger import Ledger
from services.ledger.queries import JobView, view_job
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.settings import LedgerSettings
from services.storage.interface import Store
from services.storage.memory import MemoryStore


class LedgerHarness:
    """A ledger with a settable clock, and its clients and workers."""

    def __init__(self, store: Store | None = None) -> None:
        self.seconds = 1000.0
        self.chance = random.Random(7)
        self.store = InterruptibleStore(store or MemoryStore(self.now))
        self.ledger = self.open()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def open(self, clock: Callable[[], float] | None = None) -> Ledger:
        """Return the ledger as another process opens it, with a clock of its own if given."""
        return Ledger(
            self.store,  # pyright: ignore[reportArgumentType]
            self.store,  # pyright: ignore[reportArgumentType]
            LedgerSettings(lease_s=60, poll_interval_s=2),
            Ids(lambda: self.now().timestamp(), self.chance.getrandbits),
            lambda function, over: [function(one) for one in over],
            clock or (lambda: self.seconds),
        )

    def wait(self, seconds: float = 17) -> None:
        """Let time pass; by default long enough for workers to look for work everywhere again."""
        self.seconds += seconds

    def request(self, count: int = 3, **how: Any) -> JobRequest:
        items = tuple(JobItem(name=f"item {i}", work={"number": i}) for i in range(count))
        return JobRequest(items=items, **how)

    def submit(self, count: int = 3, tenant: str = "acme", **how: Any) -> str:
        key = str(self.chance.random())
        return submit(self.ledger, tenant, key, self.request(count, **how)).job

    def worker(self, ledger: Ledger | None = None, **how: Any) -> WorkerSession:
        worker = WorkerSession(
            ledger or self.ledger, "default", rng=random.Random(self.chance.random()), **how
        )
        worker.begin()
        return worker

    def claim(self, limit: int = 1, worker: WorkerSession | None = None) -> list[Attempt]:
        """Claim attempts by the worker, or by a new one."""
        return (worker or self.worker()).claim(limit)

    def supervisor(self) -> Recovery:
        return Recovery(self.ledger)

    def recover(self) -> Any:
        return self.supervisor().recover()

    def work_off(self, do: Callable[[Attempt], None] | None = None, limit: int = 8) -> int:
        """Do all items with one worker, and return the number of attempts."""
        worker, done, idle = self.worker(), 0, 0
        while idle < 3:
            worker.heartbeat()
            attempts = worker.claim(limit)
            for attempt in attempts:
                if do:
                    do(attempt)
                else:
                    attempt.succeed(f"made of {attempt.item.name}".encode(), {"score": 1.0})
            done += len(attempts)
            idle = 0 if attempts else idle + 1
            self.wait(0 if attempts else 17)
        worker.end()
        return done

    def view(self, job: str, tenant: str = "acme") -> JobView:
        return view_job(self.ledger, tenant, job)

    def counts(self, job: str, tenant: str = "acme") -> dict[str, int]:
        """Return the counts that are not 0."""
        counts: Counts = self.view(job, tenant).counts
        return {state: number for state, number in counts.model_dump().items() if number}

    def keys(self, prefix: str = "") -> list[str]:
        return [head.key for head in self.ledger.heads(prefix)]

    def has_queue_entry(self, job: str, tenant: str = "acme") -> bool:
        return self.ledger.exists(queue_entry_key("default", tenant, job))

    def holds(self, words: str) -> list[str]:
        """Return the keys of all objects that have these words in their bytes."""
        return [k for k in self.keys() if words.encode() in self.store.inner.read(k).body]

    def damage(self, key: str, body: bytes = b"damaged") -> None:
        self.store.inner.put(key, body)


@pytest.fixture
def harness() -> LedgerHarness:
    """Return a ledger in memory, where a test can let hours pass."""
    return LedgerHarness()


@pytest.fixture
def anywhere(store: Store) -> LedgerHarness:
    """Return a ledger on each kind of store, by the clock of each."""
    return LedgerHarness(store)


@pytest.fixture
def new_harness() -> type[LedgerHarness]:
    """Return the class, for a test that starts again and again."""
    return LedgerHarness
