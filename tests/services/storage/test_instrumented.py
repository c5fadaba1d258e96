"""Calls to a store are timed, and its failures counted; what it answers stays as it is."""

from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from services import metrics
from services.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidKeyError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    SettingsError,
    UnavailableError,
)
from services.metrics import PrometheusMetrics
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import PresignedPost, Store
from services.storage.memory import MemoryStore


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    before = metrics.use(PrometheusMetrics(registry))
    yield registry
    metrics.use(before)


def _timed(registry: CollectorRegistry) -> dict[str, float]:
    """Return how many calls of each operation were timed."""
    return {
        sample.labels["operation"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "dti_store_request_seconds_count"
    }


def _failed(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["operation"], sample.labels["error"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "dti_store_errors_total"
    }


def test_every_operation_is_timed_by_its_name(registry: CollectorRegistry) -> None:
    store: Store = InstrumentedStore(MemoryStore())
    etag = store.create("a", b"1")
    etag = store.replace("a", b"2", expected=etag)
    store.read("a")
    store.head("a")
    store.list()
    store.delete_if("a", expected=etag)
    store.put("b", b"3")
    store.for_leases().delete("b")
    names = ("create", "replace", "read", "head", "list", "delete_if", "put", "delete")
    assert _timed(registry) == dict.fromkeys(names, 1)
    store.now()
    store.retention()
    assert _timed(registry) == {**dict.fromkeys(names, 1), "other": 2}
    assert _failed(registry) == {}


def test_methods_without_requests_are_passed_on(registry: CollectorRegistry) -> None:
    class Presigning(MemoryStore):
        def presigned_post(
            self, key: str, *, max_bytes: int, expires_s: int, sha256: str = ""
        ) -> PresignedPost:
            return PresignedPost(f"{key} {max_bytes} {expires_s}", {})

        def presigned_get(
            self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
        ) -> str:
            return f"{key} {expires_s} {filename} {media_type}"

        def for_leases(self) -> "Presigning":
            leases = Presigning()
            leases.put("mine", b"")
            return leases

    store = InstrumentedStore(Presigning())
    assert store.presigned_post("a", max_bytes=1, expires_s=2) == PresignedPost("a 1 2", {})
    assert store.presigned_get("a", expires_s=3, filename="b", media_type="c") == "a 3 b c"
    assert store.url == "memory:"
    assert _timed(registry) == {}
    assert store.for_leases().head("mine").size == 0


def test_a_lost_race_is_timed_and_is_no_failure(registry: CollectorRegistry) -> None:
    store = InstrumentedStore(MemoryStore())
    etag = store.create("a", b"1")
    wrong: list[tuple[type[Exception], Callable[[], object]]] = [
        (AlreadyExistsError, lambda: store.create("a", b"2")),
        (PreconditionFailedError, lambda: store.replace("a", b"2", expected=f"{etag}0")),
        (NotFoundError, lambda: store.read("b")),
        (InvalidKeyError, lambda: store.head("//")),
        (InvalidRangeError, lambda: store.read("a", start=5)),
    ]
    for error, call in wrong:
        with pytest.raises(error):
            call()
    assert _timed(registry) == {"create": 2, "replace": 1, "read": 2, "head": 1}
    assert _failed(registry) == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("gone"), "unavailable"),
        (OutcomeUnknownError("gone"), "outcome_unknown"),
        (AccessDeniedError("no"), "denied"),
        (SettingsError("no bucket"), "other"),
    ],
)
def test_a_failure_is_counted_and_passed_on(
    registry: CollectorRegistry, error: Exception, reason: str
) -> None:
    class Broken(MemoryStore):
        def put(self, key: str, body: bytes) -> str:
            raise error

    with pytest.raises(type(error)) as caught:
        InstrumentedStore(Broken()).put("a", b"")
    assert caught.value is error
    assert _failed(registry) == {("put", reason): 1}
    assert _timed(registry) == {"put": 1}


def test_a_bug_is_passed_on_and_is_no_failure_of_the_store(registry: CollectorRegistry) -> None:
    class Broken(MemoryStore):
        def put(self, key: str, body: bytes) -> str:
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        InstrumentedStore(Broken()).put("a", b"")
    assert _failed(registry) == {}
