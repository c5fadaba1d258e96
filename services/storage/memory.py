"""A store in the memory of one process, for tests, demos and simulations."""

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Literal

from services.errors import AlreadyExistsError, NotFoundError, PreconditionFailedError
from services.storage.interface import (
    Head,
    Object,
    Page,
    check_key,
    check_listing,
    check_range,
)
from services.storage.local import LocalStore, paginate


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Version:
    body: bytes
    etag: str
    last_modified: datetime


class MemoryStore(LocalStore):
    """Objects in a dict. ETags count all writes of the store, so that no ETag comes back."""

    def __init__(self, clock: Callable[[], datetime] = _utc_now) -> None:
        """Create an empty store, whose clock returns the time in UTC."""
        self._clock = clock
        # Reentrant, because `delete_if` calls `delete`.
        self._lock = threading.RLock()
        self._versions: dict[str, _Version] = {}
        self._keys: list[str] = []  # Sorted: Python orders strings as their UTF-8 bytes.
        self._writes = 0

    @property
    def url(self) -> str:
        return "memory:"

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        version = self._version(key)
        check_range(key, len(version.body), start, length)
        end = None if length is None else start + length
        return Object(self._head(key, version), version.body[start:end])

    def head(self, key: str) -> Head:
        return self._head(key, self._version(key))

    def create(self, key: str, body: bytes) -> str:
        check_key(key)
        with self._lock:
            if key in self._versions:
                raise AlreadyExistsError(f"there is an object under {key!r} already: read it")
            return self._write(key, body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        with self._lock:
            self._expect(key, expected)
            return self._write(key, body)

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        check_key(key)
        if not isinstance(body, bytes):
            body.seek(0)
            body = body.read()
        with self._lock:
            return self._write(key, body)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            if self._versions.pop(key, None):
                del self._keys[bisect_left(self._keys, key)]

    def delete_if(self, key: str, *, expected: str) -> None:
        check_key(key)
        with self._lock:
            if key in self._versions:
                self._expect(key, expected)
                self.delete(key)

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        check_listing(prefix, after, limit)

        def heads(after: str) -> Iterator[Head]:
            first = max(bisect_right(self._keys, after), bisect_left(self._keys, prefix))
            for place in range(first, len(self._keys)):
                key = self._keys[place]
                if not key.startswith(prefix):
                    return
                yield self._head(key, self._versions[key])

        with self._lock:
            return paginate(heads, prefix, after, delimiter, limit)

    def now(self) -> datetime:
        return self._clock()

    def _version(self, key: str) -> _Version:
        check_key(key)
        version = self._versions.get(key)
        if version is None:
            raise NotFoundError(f"there is no object under {key!r}")
        return version

    def _expect(self, key: str, etag: str) -> None:
        if (stored := self._version(key).etag) != etag:
            raise PreconditionFailedError(
                f"{key!r} is at {stored}, not at {etag} as expected: read it again"
            )

    def _write(self, key: str, body: bytes) -> str:
        self._writes += 1
        if key not in self._versions:
            insort(self._keys, key)
        self._versions[key] = _Version(bytes(body), str(self._writes), self._clock())
        return str(self._writes)

    def _head(self, key: str, version: _Version) -> Head:
        return Head(key, len(version.body), version.etag, version.last_modified, self._clock())
