"""A recorder of store calls, for the checks in `consistency`."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

from chaos.simulation.process import Process
from services.storage.interface import Head, Object, Page, PresignedPost, Retention, Store

T = TypeVar("T")


class Call:
    """One call of a store."""

    __slots__ = (
        "begun",
        "body",
        "ended",
        "error",
        "expected",
        "key",
        "operation",
        "process",
        "requests",
        "result",
    )

    def __init__(
        self, process: Process, operation: str, key: str, body: bytes, expected: str | None
    ) -> None:
        self.process = process.name
        self.operation = operation
        self.key = key
        self.body = body
        self.expected = expected
        self.begun = process.world.now
        self.ended: float | None = None
        """None while it goes on."""
        self.result: Any = None
        self.error: type[BaseException] | None = None
        self.requests: list[int] = []
        """Numbers of the requests that it sent, in order."""

    @property
    def returned(self) -> bool:
        return self.ended is not None and self.error is None

    def __repr__(self) -> str:
        result = self.error.__name__ if self.error else "returned" if self.returned else "goes on"
        return (
            f"{self.process}: {self.operation}({self.key!r}) at {self.begun:.6f}, by requests "
            f"{self.requests}: {result}"
        )


class StoreRecorder:
    """A store that passes every call of a process on, and records it."""

    def __init__(self, store: Store, process: Process, calls: list[Call] | None = None) -> None:
        self.calls: list[Call] = [] if calls is None else calls
        self.left: int | None = None
        """Number of calls that may still be made, where a loop must end."""
        self._store = store
        self._process = process

    @property
    def url(self) -> str:
        return self._store.url

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        return self._record("read", key, lambda: self._store.read(key, start=start, length=length))

    def head(self, key: str) -> Head:
        return self._record("head", key, lambda: self._store.head(key))

    def create(self, key: str, body: bytes) -> str:
        return self._record("create", key, lambda: self._store.create(key, body), body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        return self._record(
            "replace",
            key,
            lambda: self._store.replace(key, body, expected=expected),
            body,
            expected,
        )

    def put(self, key: str, body: bytes) -> str:
        return self._record("put", key, lambda: self._store.put(key, body), body)

    def delete(self, key: str) -> None:
        self._record("delete", key, lambda: self._store.delete(key))

    def delete_if(self, key: str, *, expected: str) -> None:
        self._record(
            "delete_if",
            key,
            lambda: self._store.delete_if(key, expected=expected),
            expected=expected,
        )

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        return self._record(
            "list",
            prefix,
            lambda: self._store.list(prefix, after=after, delimiter=delimiter, limit=limit),
        )

    def now(self) -> datetime:
        return self._record("now", "", self._store.now)

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

    def for_leases(self) -> "StoreRecorder":
        """Return a recorder for leases, which records into the same list."""
        return StoreRecorder(self._store.for_leases(), self._process, self.calls)

    def _record(
        self,
        operation: str,
        key: str,
        call: Callable[[], T],
        body: bytes = b"",
        expected: str | None = None,
    ) -> T:
        process = self._process
        task = process.world.task()
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError(f"{process.name} makes no end of calls: {operation}({key!r})")
        recorded = Call(process, operation, key, body, expected)
        self.calls.append(recorded)
        task.requests = recorded.requests
        try:
            recorded.result = result = call()
        except BaseException as error:
            recorded.error = type(error)
            raise
        finally:
            recorded.ended = process.world.now
            task.requests = None
        return result
