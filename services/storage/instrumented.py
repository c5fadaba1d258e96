"""Stores around other stores; one of them times its calls and counts its failures."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO, Literal, TypeVar

from services import metrics
from services.errors import (
    AccessDeniedError,
    InvalidKeyError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ServiceError,
    StoreFullError,
    UnavailableError,
)
from services.storage.gate import StoreGate
from services.storage.interface import Head, Object, Page, PresignedPost, Retention, Store

_ANSWERS = (NotFoundError, PreconditionFailedError, InvalidKeyError, InvalidRangeError)
"""Answers of a store that works: not failures."""

T = TypeVar("T")


class ForwardingStore(ABC):
    """A store that passes calls on to another one: those that send a request by `_forward`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @abstractmethod
    def _forward(
        self,
        operation: str,
        key: str,
        call: Callable[[], T],
        *,
        body: bytes | BinaryIO = b"",
        expected: str | None = None,
    ) -> T:
        """Make a call, and return its result; the other arguments say which one it is."""

    @property
    def url(self) -> str:
        return self._store.url

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        return self._forward("read", key, lambda: self._store.read(key, start=start, length=length))

    def head(self, key: str) -> Head:
        return self._forward("head", key, lambda: self._store.head(key))

    def create(self, key: str, body: bytes) -> str:
        return self._forward("create", key, lambda: self._store.create(key, body), body=body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        def call() -> str:
            return self._store.replace(key, body, expected=expected)

        return self._forward("replace", key, call, body=body, expected=expected)

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        return self._forward("put", key, lambda: self._store.put(key, body), body=body)

    def delete(self, key: str) -> None:
        self._forward("delete", key, lambda: self._store.delete(key))

    def delete_if(self, key: str, *, expected: str) -> None:
        def call() -> None:
            self._store.delete_if(key, expected=expected)

        self._forward("delete_if", key, call, expected=expected)

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        def call() -> Page:
            return self._store.list(prefix, after=after, delimiter=delimiter, limit=limit)

        return self._forward("list", prefix, call)

    def now(self) -> datetime:
        return self._forward("now", "", self._store.now)

    # Presigning sends no request.
    def presigned_post(
        self, key: str, *, max_bytes: int, expires_s: int, sha256: str = ""
    ) -> PresignedPost | None:
        return self._store.presigned_post(
            key, max_bytes=max_bytes, expires_s=expires_s, sha256=sha256
        )

    def presigned_get(
        self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
    ) -> str | None:
        return self._store.presigned_get(
            key, expires_s=expires_s, filename=filename, media_type=media_type
        )

    def retention(self) -> Retention:
        return self._store.retention()

    def purge_versions(self, prefix: str) -> int:
        return self._store.purge_versions(prefix)


class InstrumentedStore(ForwardingStore):
    """A store with metrics, which are recorded by the metrics of this process, and with a gate."""

    def __init__(self, store: Store, gate: StoreGate | None = None) -> None:
        """Wrap a store.

        gate: one that a `StoreMonitor` keeps, so that calls fail while it is shut; None: none is.
        """
        super().__init__(store)
        self._gate = gate or StoreGate()

    def _forward(self, operation: str, key: str, call: Callable[[], T], **arguments: object) -> T:
        with _measure(operation, self._gate):
            return call()

    def retention(self) -> Retention:
        with _measure("retention", self._gate):
            return super().retention()

    def purge_versions(self, prefix: str) -> int:
        # Only erasures ask for it: it counts as a deletion instead of as ten more series.
        with _measure("delete", self._gate):
            return super().purge_versions(prefix)

    def for_leases(self) -> "InstrumentedStore":
        return InstrumentedStore(self._store.for_leases(), self._gate)


@contextmanager
def _measure(operation: str, gate: StoreGate) -> Generator[None]:
    """Time an operation, count its failure, and tell the gate whether the store has answered.

    Raises: UnavailableError at once if the gate is shut.
    """
    gate.check()
    recorder = metrics.current()
    begun = time.perf_counter()
    try:
        yield
    except _ANSWERS:
        gate.record_answer()
        raise
    except ServiceError as error:
        recorder.count("dti_store_errors_total", operation=operation, error=_kind(error))
        if isinstance(error, UnavailableError) and not isinstance(error, StoreFullError):
            gate.record_failure()
        raise
    else:
        gate.record_answer()
    finally:
        duration_s = time.perf_counter() - begun
        recorder.observe("dti_store_request_seconds", duration_s, operation=operation)


def _kind(error: ServiceError) -> str:
    if isinstance(error, OutcomeUnknownError):
        return "outcome_unknown"
    if isinstance(error, UnavailableError):
        return "unavailable"
    return "denied" if isinstance(error, AccessDeniedError) else metrics.OTHER
