"""The conformance probe: tries out at start whether a store does what the ledger relies on.

Servers that speak S3 differ most where the ledger is most sensitive: some ignore the conditions of
writes, and answer 200.
"""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from services.errors import (
    AlreadyExistsError,
    InvalidRangeError,
    NotFoundError,
    PreconditionFailedError,
    StorageError,
    StoreRefusedError,
)
from services.storage.interface import Retention, Store

PREFIX = "service/probes/"

_RACES = 10
_RACERS = 8
"""Races for an object, and the threads that take part in each. Ceph's gateway, on a versioned
bucket, lets several win in nine of ten races at least; the first race also opens the connections.
"""

# A server that loses one race in ten, as Ceph's gateway does, is found out by seven probes in ten.
# More races would delay the probe for a property that the ledger does not rely on.
_DELETION_RACES = 12
_CLOCK_TOLERANCE = timedelta(seconds=5)
"""Difference between the time of a new object and the store's clock: S3 rounds to seconds, and an
answer may be slow.
"""


_OTHER_STORE = "use a store of docs/explanation/storage.md"


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings about a store that was not refused."""

    retention: Retention
    erases: bool
    """Whether deleted bytes are gone at once."""
    atomic_deletion: bool
    """Whether one of a concurrent `delete_if` and `replace` failed in every try. False is certain;
    true is what a few tries have shown.
    """
    notes: tuple[str, ...]
    """Notes for the operator, one sentence each."""


def probe(store: Store) -> Findings:
    """Try out a store below a prefix of its own, and leave nothing there, in about 350 requests.

    Raises:
        StoreRefusedError: The store breaks a promise; the error names it.
        AccessDeniedError: The credentials do not allow it.
        UnavailableError: The store did not answer.
    """
    prefix = f"{PREFIX}{secrets.token_hex(8)}/"
    try:
        for check in (_creation, _replacement, _deletion, _listing, _ranges, _clock, _races):
            check(store, prefix)
        atomic_deletion = _deletes_atomically(store, prefix)
        retention = store.retention()
    finally:
        _remove_objects(store, prefix)
    notes = _retention_notes(retention)
    erases = not notes
    if not atomic_deletion:
        notes.append(
            "Conditional deletion is not atomic: a version that was written at the same moment can "
            "be deleted with the one that was meant; the ledger does not rely on it."
        )
    return Findings(retention, erases, atomic_deletion, tuple(notes))


def _remove_objects(store: Store, prefix: str) -> None:
    """Delete what the probe has written, as far as the store allows it.

    What stays does no harm, and the error that ended the probe must not be hidden by another one.
    The first error ends it, since a store that does not answer would take minutes for all keys.
    """
    names = ("a", "b", "c", "erase", *(_race_name(number) for number in range(0, _RACES, 2)))
    with suppress(StorageError):
        for name in names:
            store.delete(f"{prefix}{name}")
        if store.retention().versioning in ("enabled", "suspended"):
            store.purge_versions(prefix)


def _creation(store: Store, prefix: str) -> None:
    store.create(f"{prefix}a", b"first")
    if not _fails(lambda: store.create(f"{prefix}a", b"second"), AlreadyExistsError):
        raise _refused(store, "it ignores If-None-Match: an object was created twice")
    if store.read(f"{prefix}a").body != b"first":
        raise _refused(store, "it does not return what was written last (read after write)")


def _replacement(store: Store, prefix: str) -> None:
    stale = store.head(f"{prefix}a").etag
    fresh = store.replace(f"{prefix}a", b"second", expected=stale)
    if not _fails(
        lambda: store.replace(f"{prefix}a", b"third", expected=stale), PreconditionFailedError
    ):
        raise _refused(store, "it ignores If-Match: a stale version was replaced")
    stored = store.read(f"{prefix}a")
    if stored.body != b"second" or stored.head.etag != fresh:
        raise _refused(store, "it does not return what was written last (read after overwrite)")
    if not _fails(lambda: store.replace(f"{prefix}b", b"", expected=stale), NotFoundError):
        raise _refused(store, "it ignores If-Match: an object was replaced where none was")


def _deletion(store: Store, prefix: str) -> None:
    stale = store.create(f"{prefix}b", b"first")
    fresh = store.replace(f"{prefix}b", b"second", expected=stale)
    failed = _fails(lambda: store.delete_if(f"{prefix}b", expected=stale), PreconditionFailedError)
    if not failed or _fails(lambda: store.head(f"{prefix}b"), NotFoundError):
        raise _refused(store, "it ignores If-Match of deletions: a stale version was deleted")
    store.delete_if(f"{prefix}b", expected=fresh)
    if not _fails(lambda: store.read(f"{prefix}b"), NotFoundError):
        raise _refused(store, "it still returns what was deleted (read after delete)")
    # Ceph's gateway takes the marker of a deletion for an object once versioning is suspended.
    if _fails(lambda: store.create(f"{prefix}b", b"third"), AlreadyExistsError):
        raise _refused(
            store,
            "it does not create an object where another one was deleted",
            _advice_on_versions(store),
        )


def _listing(store: Store, prefix: str) -> None:
    store.put(f"{prefix}c", b"listed")
    store.put(f"{prefix}b", b"listed")
    first = store.list(prefix, limit=2)
    rest = store.list(prefix, after=first.next or "", limit=2)
    keys = [head.key.removeprefix(prefix) for head in (*first.objects, *rest.objects)]
    if keys != ["a", "b", "c"]:
        raise _refused(
            store, f"it lists {keys} where a, b and c were written (list after write, in order)"
        )
    store.delete(f"{prefix}b")
    keys = [head.key.removeprefix(prefix) for head in store.list(prefix).objects]
    if keys != ["a", "c"]:
        raise _refused(store, f"it lists {keys} where a and c are left (list after delete)")


def _ranges(store: Store, prefix: str) -> None:
    store.put(f"{prefix}c", b"0123456789")
    parts = [store.read(f"{prefix}c", start=start, length=4).body for start in (0, 3, 8)]
    if parts != [b"0123", b"3456", b"89"]:
        raise _refused(store, f"it reads ranges wrongly: {parts} of 0123456789")
    if not _fails(lambda: store.read(f"{prefix}c", start=10, length=1), InvalidRangeError):
        raise _refused(store, "it reads ranges wrongly: a range beyond the end was answered")


def _clock(store: Store, prefix: str) -> None:
    store.put(f"{prefix}c", secrets.token_bytes(16))
    written = store.head(f"{prefix}c").last_modified
    if abs(store.now() - written) > _CLOCK_TOLERANCE:
        raise _refused(
            store,
            f"its clock says {store.now()} right after a write of {written}: no lease is "
            "judged by it",
        )


def _races(store: Store, prefix: str) -> None:
    """Check that of many concurrent creations, and of replacements, exactly one succeeds."""
    broken: dict[str, list[int]] = {"creations": [], "replacements": []}
    with ThreadPoolExecutor(_RACERS) as pool:
        for number in range(_RACES):
            key = f"{prefix}{_race_name(number)}"
            was_deleted = number % 2 == 1
            if was_deleted:
                store.delete(key)
            winners = _winners(pool, lambda body, key=key: store.create(key, body))
            if winners != 1:
                broken["creations"].append(winners)
            elif was_deleted:
                expected = store.head(key).etag
                winners = _winners(
                    pool,
                    lambda body, key=key, expected=expected: store.replace(
                        key, body, expected=expected
                    ),
                )
                if winners != 1:
                    broken["replacements"].append(winners)
    for kind, winners in broken.items():
        if winners:
            raise _refused(
                store,
                f"its conditional writes are not atomic: of {_RACERS} {kind} of one object at "
                f"once, {max(winners)} succeeded, not one (in {len(winners)} of {_RACES} races)",
                _advice_on_versions(store),
            )


def _race_name(number: int) -> str:
    """Return the name of a race's object; every second race is for one that was deleted."""
    return f"race{number // 2}"


def _winners(pool: ThreadPoolExecutor, write: Callable[[bytes], object]) -> int:
    """Return how many of `_RACERS` threads wrote an object, each with bytes of its own."""
    start = threading.Barrier(_RACERS)

    def succeeds(number: int) -> bool:
        start.wait()
        # AlreadyExistsError is one of these, too.
        return not _fails(lambda: write(secrets.token_bytes(16)), PreconditionFailedError)

    return sum(pool.map(succeeds, range(_RACERS)))


def _deletes_atomically(store: Store, prefix: str) -> bool:
    key = f"{prefix}erase"
    with ThreadPoolExecutor(2) as pool:
        for number in range(_DELETION_RACES):
            expected = store.create(key, secrets.token_bytes(16))
            written = pool.submit(
                _fails,
                lambda expected=expected: store.replace(
                    key, secrets.token_bytes(16), expected=expected
                ),
                StorageError,
            )
            # A deletion that comes a little later meets the write half-way more often.
            time.sleep(number % 4 * 0.001)
            deleted = not _fails(
                lambda expected=expected: store.delete_if(key, expected=expected), StorageError
            )
            if deleted and not written.result():
                return False
            store.delete(key)
    return True


def _fails(call: Callable[[], object], kind: type[StorageError]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def _refused(store: Store, what: str, advice: str = _OTHER_STORE) -> StoreRefusedError:
    return StoreRefusedError(
        f"{store.url}: refused: {what}; jobs would be lost or done twice: {advice}"
    )


def _advice_on_versions(store: Store) -> str:
    """Return what to do about a promise that some servers break on versioned buckets alone."""
    try:
        versioning = store.retention().versioning
    except StorageError:
        return _OTHER_STORE
    if versioning not in ("enabled", "suspended"):
        return _OTHER_STORE
    suspend = "suspend versioning if the server then passes `dti store check`, or "
    return (
        f"versioning of the bucket is {versioning}, and this server does not keep the promise "
        f"there: {suspend if versioning == 'enabled' else ''}use a bucket in which versioning was "
        f"never enabled, or {_OTHER_STORE}"
    )


def _retention_notes(retention: Retention) -> list[str]:
    notes: list[str] = []
    if retention.versioning in ("enabled", "suspended"):
        notes.append(
            f"Versioning is {retention.versioning}: deleted and overwritten objects stay as old "
            "versions, so erasure has to remove every version, or a lifecycle rule must."
        )
    if retention.object_lock:
        notes.append(
            "Object lock is on: a locked version cannot be removed before its time, so erasure "
            "cannot be promised."
        )
    if retention.versioning == "unknown" or retention.object_lock is None:
        notes.append(
            "Versioning or object lock cannot be read: allow s3:GetBucketVersioning and "
            "s3:GetBucketObjectLockConfiguration, or erasure cannot be promised."
        )
    return notes
