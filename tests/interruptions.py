"""A store in which a test steps in before or after any request, and loops over all requests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from services.storage.interface import Store

WRITES = ("create", "replace", "put", "delete", "delete_if")
_REQUESTS = ("read", "head", "list", *WRITES)


class Crash(BaseException):
    """The end of the process: it handles nothing that follows."""


class InterruptibleStore:
    """A store that records its requests and calls a function before or after one of them."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.requests: list[tuple[str, str]] = []
        """The method and the key of each request."""
        self.before: Callable[[str, str], None] | None = None
        self.after: Callable[[str, str], None] | None = None
        self.was_interrupted = False
        """Whether the latest interruption was reached."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in _REQUESTS:
            return method

        def request(key: str = "", *args: Any, **options: Any) -> Any:
            self.requests.append((name, key))
            if self.before:
                self.before(name, key)
            result = method(key, *args, **options)
            if self.after:
                self.after(name, key)
            return result

        return request

    @contextmanager
    def counted(self) -> Iterator[list[tuple[str, str]]]:
        """Yield the requests that are made meanwhile."""
        self.requests = []
        yield self.requests

    @contextmanager
    def interrupted(
        self, at: int, do: Callable[[], object], *, applied: bool = False, writes: bool = False
    ) -> Iterator[list[bool]]:
        """Call `do` once before request number `at`, counted from 0, or after it if `applied`.

        With `writes`, only writes are counted. The yielded list is empty in the end if there were
        not so many requests.
        """
        left, reached = at, list[bool]()
        self.was_interrupted = False

        def step(name: str, _: str) -> None:
            nonlocal left
            if writes and name not in WRITES:
                return
            left -= 1
            if left == -1:
                reached.append(True)
                self.was_interrupted = True
                self.before = self.after = None
                do()

        self.before, self.after = (None, step) if applied else (step, None)
        try:
            yield reached
        finally:
            self.before = self.after = None

    @contextmanager
    def crashing(self, at: int, *, applied: bool) -> Iterator[list[bool]]:
        """End the process at that write, so that nothing after it happens."""

        def crash() -> None:
            raise Crash

        with suppress(Crash), self.interrupted(at, crash, applied=applied, writes=True) as reached:
            yield reached


def at_each_request(new_harness: Callable[[], Any]) -> Iterator[tuple[int, Any]]:
    """Yield 0, 1, 2, ..., each with a new harness, until an interruption is not reached.

    The body interrupts the store of the harness at request number `at`. Its last round has fewer
    requests than that, so it runs without an interruption.
    """
    at, is_reached = 0, True
    while is_reached:
        harness = new_harness()
        yield at, harness
        is_reached = harness.store.was_interrupted
        at += 1
