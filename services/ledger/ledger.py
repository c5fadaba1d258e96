"""The ledger as one process has it open: the stores, names, and the few ways to write and read.

Those who use it are `submissions` (ask), `reading` (see), `worker` (do) and `supervisor` (mend).

Writes that end in knowing: of a lost answer it is found out whether it was applied.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from services.errors import (
    AlreadyExistsError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
)
from services.ledger.ids import Ids
from services.ledger.records import RECORD_BYTES
from services.settings import LedgerSettings
from services.storage.interface import Head, Page, Store


def create_once(store: Store, key: str, body: bytes) -> str | None:
    """The ETag of these bytes, created under `key`. None: others stand there.

    `body` has a nonce. Raises: OutcomeUnknownError if the store does not say even now, and
    UnavailableError if it certainly was not written.
    """
    for last in (False, False, True):
        try:
            return store.create(key, body)
        except AlreadyExistsError:
            return None
        except OutcomeUnknownError:
            try:
                there = store.read(key)
            except NotFoundError:
                # Not applied yet. If it still is later, the next one meets its own bytes.
                if last:
                    raise
            else:
                return there.head.etag if there.body == body else None
    return None


def compare_and_swap(store: Store, key: str, body: bytes, expected: str) -> str | None:
    """The ETag of these bytes, written on top of the version `expected`. None: another stands
    there, or no object.

    `body` has a nonce. Raises: OutcomeUnknownError and UnavailableError, as `create_once` does.
    """
    for last in (False, False, True):
        try:
            return store.replace(key, body, expected=expected)
        except (PreconditionFailedError, NotFoundError):
            return None
        except OutcomeUnknownError:
            try:
                there = store.read(key)
            except NotFoundError:
                return None
            if there.body == body:
                return there.head.etag
            if there.head.etag != expected:
                return None
            if last:
                raise
    return None


_THREADS = 16
_inside = threading.local()

A = TypeVar("A")
B = TypeVar("B")


class Gather(Protocol):
    """Applies a function to each of many, in any order, and returns the answers in theirs."""

    def __call__(self, function: Callable[[A], B], over: Sequence[A], /) -> list[B]: ...


def gather_in_threads(function: Callable[[A], B], over: Sequence[A]) -> list[B]:
    """Requests side by side, since each mostly waits for its answer. What a thread gathers in turn
    it does one after the other, so that there are never more than that many threads.
    """
    if len(over) < 2 or getattr(_inside, "thread", False):
        return [function(one) for one in over]
    with ThreadPoolExecutor(min(_THREADS, len(over)), initializer=_enter_thread) as pool:
        return list(pool.map(function, over))


def _enter_thread() -> None:
    _inside.thread = True


@dataclass(frozen=True)
class Ledger:
    """Safe to share between threads; each process opens its own."""

    store: Store
    lease_store: Store
    """The same objects over connections of their own."""
    settings: LedgerSettings = field(default_factory=LedgerSettings)
    ids: Ids = field(default_factory=Ids)
    gather: Gather = gather_in_threads
    clock: Callable[[], float] = time.monotonic
    """This host's, in seconds: for how often to look, never for whose lease is over."""

    @classmethod
    def open(cls, store: Store, settings: LedgerSettings | None = None) -> "Ledger":
        """The ledger in a store."""
        return cls(store, store.for_leases(), settings or LedgerSettings())

    def create_once(self, key: str, body: bytes) -> str | None:
        """The ETag of these bytes, created now; None: others stand there."""
        return create_once(self.store, key, body)

    def compare_and_swap(self, key: str, body: bytes, expected: str) -> str | None:
        """The new ETag; None: it was not at `expected`."""
        return compare_and_swap(self.store, key, body, expected)

    def exists(self, key: str) -> bool:
        """Whether an object stands there."""
        try:
            self.store.head(key)
        except NotFoundError:
            return False
        return True

    def find(self, key: str) -> tuple[Head, bytes] | None:
        """An object whole, or None."""
        try:
            found = self.store.read(key)
        except NotFoundError:
            return None
        return found.head, found.body

    def find_record(self, key: str) -> tuple[Head, bytes] | None:
        """The same without most of its payload."""
        try:
            found = self.store.read(key, length=RECORD_BYTES)
            if b"\n" not in found.body:
                found = self.store.read(key)
        except NotFoundError:
            return None
        except InvalidRangeError:  # It is empty: whoever reads it will say that it is damaged.
            return self.find(key)
        return found.head, found.body

    def pages(self, prefix: str, after: str = "", **how: Any) -> Iterable[Page]:
        """A listing to its end."""
        cursor: str | None = after
        while cursor is not None:
            page = self.store.list(prefix, after=cursor, **how)
            yield page
            cursor = page.next

    def heads(self, prefix: str) -> list[Head]:
        """All objects whose keys begin so."""
        return [head for page in self.pages(prefix) for head in page.objects]

    def folders(self, prefix: str) -> Iterable[str]:
        """The names that stand right behind `prefix`, before a slash."""
        for page in self.pages(prefix, delimiter="/"):
            for common in page.prefixes:
                yield common[len(prefix) : -1]
