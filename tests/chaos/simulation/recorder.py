"""A recorder of store calls, for the checks in `consistency`."""

from collections.abc import Callable
from typing import Any, TypeVar

from chaos.simulation.process import Process
from services.storage.instrumented import ForwardingStore
from services.storage.interface import Store

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


class StoreRecorder(ForwardingStore):
    """A store that passes every call of a process on, and records it."""

    def __init__(self, store: Store, process: Process, calls: list[Call] | None = None) -> None:
        super().__init__(store)
        self.calls: list[Call] = [] if calls is None else calls
        self.left: int | None = None
        """Number of calls that may still be made, where a loop must end."""
        self._process = process

    def for_leases(self) -> "StoreRecorder":
        """Return a recorder for leases, which records into the same list."""
        return StoreRecorder(self._store.for_leases(), self._process, self.calls)

    def _forward(
        self,
        operation: str,
        key: str,
        call: Callable[[], T],
        *,
        body: Any = b"",
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
