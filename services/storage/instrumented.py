"""A store that times its calls and counts its failures."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO, Literal

from services import metrics
from services.errors import (
    AccessDeniedError,
    InvalidKeyError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ServiceError,
    UnavailableError,
)
from services.storage.interface import Head, Object, Page, PresignedPost, Retention, Store

_ANSWERS = (NotFoundError, PreconditionFailedError, InvalidKeyError, InvalidRangeError)
"""Answers of a store that works: not failures."""


class InstrumentedStore:
    """A store with metrics, which are recorded by the metrics of this process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        return self._store.url

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        with _measure("read"):
            return self._store.read(key, start=start, length=length)

    def head(self, key: str) -> Head:
        with _measure("head"):
            return self._store.head(key)

    def create(self, key: str, body: bytes) -> str:
        with _measure("create"):
            return self._store.create(key, body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        with _measure("replace"):
            return self._store.replace(key, body, expected=expected)

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        with _measure("put"):
            return self._store.put(key, body)

    def delete(self, key: str) -> None:
        with _measure("delete"):
            self._store.delete(key)

    def delete_if(self, key: str, *, expected: str) -> None:
        with _measure("delete_if"):
            self._store.delete_if(key, expected=expected)

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        with _measure("list"):
            return self._store.list(prefix, after=after, delimiter=delimiter, limit=limit)

    def now(self) -> datetime:
        with _measure("now"):
            return self._store.now()

    # Presigning sends no request, so that there is nothing to measure.
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
        with _measure("retention"):
            return self._store.retention()

    def purge_versions(self, prefix: str) -> int:
        # Only erasures ask for it: it counts as a deletion instead of as ten more series.
        with _measure("delete"):
            return self._store.purge_versions(prefix)

    def for_leases(self) -> "InstrumentedStore":
        return InstrumentedStore(self._store.for_leases())


@contextmanager
def _measure(operation: str) -> Generator[None]:
    """Time an operation, and count its failure."""
    recorder = metrics.current()
    begun = time.perf_counter()
    try:
        yield
    except _ANSWERS:
        raise
    except ServiceError as error:
        recorder.count("dti_store_errors_total", operation=operation, error=_kind(error))
        raise
    finally:
        duration_s = time.perf_counter() - begun
        recorder.observe("dti_store_request_seconds", duration_s, operation=operation)


def _kind(error: ServiceError) -> str:
    if isinstance(error, OutcomeUnknownError):
        return "outcome_unknown"
    if isinstance(error, UnavailableError):
        return "unavailable"
    return "denied" if isinstance(error, AccessDeniedError) else metrics.OTHER
