"""Tokens of a tiny model in a ledger, and token caches with a clock that only tests move."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.text.tokens import LearnedToken
from services import metrics
from services.contracts.jobs import JobItem, JobRequest
from services.errors import UnavailableError
from services.inference.tokens.cache import TokenCache, TokenLifetimes
from services.inference.tokens.loader import ModelSignature
from services.ledger import aliases
from services.ledger.ids import Ids, token_id
from services.ledger.ledger import Ledger
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.metrics import Metric, Metrics
from services.storage.interface import Store
from services.storage.memory import MemoryStore

SIGNATURE = ModelSignature({"text_encoder": 8}, "0" * 64)
_REQUESTS = ("read", "head", "list")


class RecordingStore:
    """A store that records the requests that read, and runs a function before each."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda name, key: None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in _REQUESTS:
            return method

        def ask(key: str = "", *args: Any, **options: Any) -> Any:
            self.requests.append((name, key))
            self.before(name, key)
            return method(key, *args, **options)

        return ask


class RecordingMetrics(Metrics):
    """Metrics that keep their values."""

    def __init__(self) -> None:
        super().__init__("engine")
        self.counts: dict[str, float] = {}
        self.gauges: dict[tuple[str, str], float] = {}

    def _count(self, metric: Metric, n: float, labels: dict[str, str]) -> None:
        self.counts[labels["outcome"]] = self.counts.get(labels["outcome"], 0) + n

    def _set(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        self.gauges[metric.name, labels["kind"]] = value


class TokenStore:
    """A ledger that workers write, and token caches that read it through a recording store."""

    def __init__(self, store: Store) -> None:
        self.seconds = 1000.0
        self._days = itertools.count(1_700_000_000)  # Job ids are ordered by time.
        self.made = 0
        # The caches see what is done with this ledger through the store alone.
        ids = Ids(lambda: next(self._days), random.Random(3).getrandbits)
        self.elsewhere = Ledger(store, store.for_leases(), ids=ids)
        self.store = RecordingStore(store)
        self.caches: list[TokenCache] = []

    def cache(self, **options: Any) -> TokenCache:
        ledger = Ledger(self.store, self.store)  # pyright: ignore[reportArgumentType]
        options.setdefault("lifetimes", TokenLifetimes(confirm_timeout_s=5))
        cache = TokenCache(
            ledger, options.pop("signature", SIGNATURE), clock=lambda: self.seconds, **options
        )
        self.caches.append(cache)
        return cache

    def artifact(self, fingerprint: str = "0" * 64, dim: int = 8, rows: Any = None) -> Artifact:
        """Return a new artifact, each time with other rows."""
        self.made += 1
        rng = torch.Generator().manual_seed(self.made)
        rows = torch.randn(1, dim, generator=rng) if rows is None else rows
        token = LearnedToken("<rex>", {"text_encoder": rows}, "eos")
        origin = ImportedOrigin(format_name="test", pooling="eos", files={})
        return Artifact.of(token, model="tiny", fingerprint=fingerprint, origin=origin)

    def learn(self, alias: str = "rex", tenant: str = "acme", payload: bytes | None = None) -> str:
        """Submit and finish a job of one subject, and return the id of its token."""
        job = self.submit(alias, tenant)
        self.finish(job, alias, tenant, payload)
        return token_id(job, 0, 0)

    def submit(self, alias: str = "rex", tenant: str = "acme") -> str:
        request = JobRequest(items=(JobItem(name=alias),))
        return submit(self.elsewhere, tenant, f"key {next(self._days)}", request).job

    def finish(self, job: str, alias: str, tenant: str, payload: bytes | None = None) -> None:
        worker = WorkerSession(self.elsewhere, "default")
        worker.begin()
        [attempt] = worker.claim(1)
        assert attempt.item_ref.index == 0
        aliases.add(self.elsewhere.store, tenant, alias, token_id(job, 0, 0))
        attempt.succeed(self.artifact().to_bytes() if payload is None else payload, {})
        worker.end()

    def result_key(self, token: str, tenant: str = "acme") -> str:
        return f"t/{tenant}/jobs/{token[4:30]}/results/00.00000"

    def reads(self, since: int = 0) -> list[str]:
        """Return the kinds of the requests that read."""
        return [name for name, _ in self.store.requests[since:]]

    def make_unavailable(self) -> None:
        """Let every request to the store fail."""

        def refuse(name: str, key: str) -> None:
            raise UnavailableError(f"{name} {key}: no answer")

        self.store.before = refuse

    def make_available(self) -> None:
        self.store.before = lambda name, key: None


@pytest.fixture
def in_memory() -> Iterator[TokenStore]:
    """Return a token store in memory."""
    token_store = TokenStore(MemoryStore())
    yield token_store
    for cache in token_store.caches:
        cache.close()


@pytest.fixture
def anywhere(store: Store) -> Iterator[TokenStore]:
    """Return a token store on each kind of object store."""
    token_store = TokenStore(store)
    yield token_store
    for cache in token_store.caches:
        cache.close()


@pytest.fixture
def recorded() -> RecordingMetrics:
    """Return the metrics that the engine has recorded."""
    counting = RecordingMetrics()
    metrics.use(counting)
    return counting
