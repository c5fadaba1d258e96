"""The ledger as one process has it open: its stores, ids and settings, and safe ways to write.

Clients use it through `submissions` and `queries`, workers through `worker`, and the supervisor
through `recovery`.

Two writes decide every race. *Create-once* writes an object where there is none, so that of many
writers one wins. *Compare-and-swap* replaces exactly the version that was read. Both find out
whether a write whose answer was lost has been applied.
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
from services.ledger.records import LONG_RECORD_BYTES, RECORD_BYTES
from services.settings import LedgerSettings
from services.storage.interface import Head, Page, Store


def create_once(store: Store, key: str, body: bytes) -> str | None:
    """Create an object, and return its ETag, or None if another object has this key.

    The body has to contain a nonce: only then does finding the same bytes prove that this call
    wrote them.

    Raises:
        OutcomeUnknownError: The store does not say, even when asked again, whether it was written.
        UnavailableError: The store did not answer, and the object was certainly not written.
    """
    for is_last in (False, False, True):
        try:
            return store.create(key, body)
        # The store has compared bytes already: this object is another writer's.
        except AlreadyExistsError:
            return None
        except OutcomeUnknownError:
            try:
                stored = store.read(key)
            except NotFoundError:
                # Three times in all: the store has retried each of them until its own deadline, so
                # that more would only keep the caller from an error that it can handle.
                # Not applied so far. The lost request may still arrive; the next create then meets
                # its own bytes, which the store reads back.
                if is_last:
                    raise
            else:
                return stored.head.etag if stored.body == body else None
    return None


def compare_and_swap(store: Store, key: str, body: bytes, expected: str) -> str | None:
    """Replace the version with the ETag `expected`, and return the new ETag.

    Returns None if another version, or no object, has this key. The body has to contain a nonce,
    as for `create_once`; otherwise a version could come back (the ABA problem of S3's ETags, which
    are digests of the bytes).

    Raises:
        OutcomeUnknownError: The store does not say, even when asked again, whether it was written.
        UnavailableError: The store did not answer, and the object was certainly not written.
    """
    for is_last in (False, False, True):
        try:
            return store.replace(key, body, expected=expected)
        except (PreconditionFailedError, NotFoundError):
            return None
        except OutcomeUnknownError:
            try:
                stored = store.read(key)
            except NotFoundError:
                # Deleted: our version, if it was written, does not stand any more either.
                return None
            if stored.body == body:
                return stored.head.etag
            if stored.head.etag != expected:
                return None
            # The expected version still stands, so that another attempt can do no harm.
            if is_last:
                raise
    return None


# Fewer than the connections that an S3 client keeps open (`S3Settings.max_connections`): more
# threads would only wait for one.
_MAX_THREADS = 16
_thread_local = threading.local()

A = TypeVar("A")
B = TypeVar("B")


class Gather(Protocol):
    """A function that applies another to many arguments, and returns the results in their order."""

    def __call__(self, function: Callable[[A], B], over: Sequence[A], /) -> list[B]: ...


def gather_in_threads(function: Callable[[A], B], over: Sequence[A]) -> list[B]:
    """Apply a function to many arguments in threads, as requests mostly wait for their answers.

    Calls from such a thread run one after another: nested pools would multiply the threads, and
    with them the connections to the store.
    """
    if len(over) < 2 or getattr(_thread_local, "is_gathering", False):
        return [function(argument) for argument in over]
    with ThreadPoolExecutor(min(_MAX_THREADS, len(over)), initializer=_mark_thread) as pool:
        return list(pool.map(function, over))


def _mark_thread() -> None:
    _thread_local.is_gathering = True


@dataclass(frozen=True)
class Ledger:
    """The ledger in a store. Thread-safe; each process opens its own."""

    store: Store
    lease_store: Store
    """The same objects, over connections of its own."""
    settings: LedgerSettings = field(default_factory=LedgerSettings)
    ids: Ids = field(default_factory=Ids)
    gather: Gather = gather_in_threads
    clock: Callable[[], float] = time.monotonic
    """This host's clock in seconds. It times the polling, and never decides whether a lease has
    expired: clocks of hosts differ, so that only the store's clock is common to all.
    """

    @classmethod
    def open(cls, store: Store, settings: LedgerSettings | None = None) -> "Ledger":
        """Return the ledger in a store."""
        return cls(store, store.for_leases(), settings or LedgerSettings())

    def create_once(self, key: str, body: bytes) -> str | None:
        """Create an object, and return its ETag, or None if another object has this key."""
        return create_once(self.store, key, body)

    def compare_and_swap(self, key: str, body: bytes, expected: str) -> str | None:
        """Replace the version `expected`, and return the new ETag, or None if it is not there."""
        return compare_and_swap(self.store, key, body, expected)

    def exists(self, key: str) -> bool:
        """Return whether there is an object with this key."""
        try:
            self.store.head(key)
        except NotFoundError:
            return False
        return True

    def find(self, key: str) -> tuple[Head, bytes] | None:
        """Return an object whole, or None if there is none."""
        try:
            found = self.store.read(key)
        except NotFoundError:
            return None
        return found.head, found.body

    def find_record(self, key: str) -> tuple[Head, bytes] | None:
        """Return an object's record without most of its payload, or None if there is none."""
        try:
            found = self.store.read(key, length=RECORD_BYTES)
            if b"\n" not in found.body:
                found = self.store.read(key, length=LONG_RECORD_BYTES)
            if b"\n" not in found.body:
                found = self.store.read(key)
        except NotFoundError:
            return None
        except InvalidRangeError:  # It is empty: unpacking reports it as damaged.
            return self.find(key)
        return found.head, found.body

    def pages(self, prefix: str, after: str = "", **options: Any) -> Iterable[Page]:
        """Yield all pages of a listing."""
        cursor: str | None = after
        while cursor is not None:
            page = self.store.list(prefix, after=cursor, **options)
            yield page
            cursor = page.next

    def heads(self, prefix: str) -> list[Head]:
        """Return all objects whose keys begin with `prefix`."""
        return [head for page in self.pages(prefix) for head in page.objects]

    def folders(self, prefix: str) -> Iterable[str]:
        """Yield the names between `prefix` and the next slash."""
        for page in self.pages(prefix, delimiter="/"):
            for common in page.prefixes:
                yield common[len(prefix) : -1]
