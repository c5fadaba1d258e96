"""A store that breaks its word is refused at start, and the message says which."""

import secrets
import time
from datetime import timedelta
from typing import Any, Literal

import boto3
import pytest

from services.errors import (
    AlreadyExistsError,
    InvalidRangeError,
    NotFoundError,
    PreconditionFailedError,
    StoreRefusedError,
    UnavailableError,
)
from services.storage.interface import Object, Page, Retention, Store
from services.storage.memory import MemoryStore
from services.storage.probe import probe


def test_every_store_of_ours_passes_and_is_left_empty(store: Store, kind: str) -> None:
    findings = probe(store)
    assert findings.erases
    if kind not in ("moto", "s3"):  # S3 servers differ
        assert findings.atomic_deletion
        assert findings.notes == ()
    assert store.list().objects == ()


class IgnoresIfNoneMatch(MemoryStore):
    def create(self, key: str, body: bytes) -> str:
        return self.put(key, body)


class IgnoresIfMatch(MemoryStore):
    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        self.head(key)
        return self.put(key, body)


class ReplacesNothing(MemoryStore):
    """A store that checks If-Match only where an object exists."""

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        try:
            return super().replace(key, body, expected=expected)
        except NotFoundError:
            return self.put(key, body)


class IgnoresIfMatchOfDeletions(MemoryStore):
    def delete_if(self, key: str, *, expected: str) -> None:
        self.delete(key)


class DropsConditionalDeletions(MemoryStore):
    def delete_if(self, key: str, *, expected: str) -> None:
        if self.head(key).etag != expected:
            raise PreconditionFailedError("another version")


class ListsLate(MemoryStore):
    """A store whose listing is one write behind."""

    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def put(self, key: str, body: bytes) -> str:
        self.old, self.new = self.new, (*self.new, key)
        return super().put(key, body)

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        page = super().list(prefix, after=after, delimiter=delimiter, limit=limit)
        hidden = set(self.new) - set(self.old)
        return Page(tuple(head for head in page.objects if head.key not in hidden), (), page.next)


class ListsWhatWasDeleted(MemoryStore):
    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        first = super().list(prefix, after=after, delimiter=delimiter, limit=limit)
        self.longest = max(
            getattr(self, "longest", first), first, key=lambda page: len(page.objects)
        )
        return self.longest if limit > 2 else first

    def delete(self, key: str) -> None:
        self.list(key.rpartition("/")[0] + "/")
        super().delete(key)


class IgnoresRanges(MemoryStore):
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        return super().read(key)


class ReadsBeyondTheEnd(MemoryStore):
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        try:
            return super().read(key, start=start, length=length)
        except InvalidRangeError:
            return Object(self.head(key), b"")


class ReadsStale(MemoryStore):
    """A cache stands before it."""

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        self.cache: dict[Any, Object] = getattr(self, "cache", {})
        return self.cache.setdefault(
            (key, start, length), super().read(key, start=start, length=length)
        )


class HasAnotherClock(MemoryStore):
    def now(self) -> Any:
        return super().now() + timedelta(hours=1)


class LooksThenWrites(MemoryStore):
    """Checks the condition and writes in two steps, as a proxy over another store might."""

    def create(self, key: str, body: bytes) -> str:
        missing = key not in self._versions
        time.sleep(0.02)
        if not missing:
            raise AlreadyExistsError("there")
        return self.put(key, body)


class RacesForDeleted(LooksThenWrites):
    """Is careless only where an object was deleted, as some servers are with versions."""

    def create(self, key: str, body: bytes) -> str:
        if key in self.deleted:
            return super().create(key, body)
        return MemoryStore.create(self, key, body)

    def delete(self, key: str) -> None:
        self.deleted.add(key)
        super().delete(key)

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[str] = set()


class LooksThenReplaces(MemoryStore):
    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        fits = self.head(key).etag == expected
        time.sleep(0.01)
        if not fits:
            raise PreconditionFailedError("another version")
        return self.put(key, body)


class TakesMarkersForObjects(MemoryStore):
    """Creates nothing where an object was deleted, as Ceph does once versioning is suspended."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[str] = set()

    def create(self, key: str, body: bytes) -> str:
        if key in self.written:
            raise AlreadyExistsError("there is a marker")
        self.written.add(key)
        return super().create(key, body)


@pytest.mark.parametrize(
    ("store", "named"),
    [
        (IgnoresIfNoneMatch, "ignores If-None-Match"),
        (IgnoresIfMatch, "ignores If-Match: a stale version was replaced"),
        (ReplacesNothing, "replaced where none was"),
        (IgnoresIfMatchOfDeletions, "ignores If-Match of deletions"),
        (DropsConditionalDeletions, "read after delete"),
        (ListsLate, "list after write"),
        (ListsWhatWasDeleted, "list after delete"),
        (IgnoresRanges, "reads ranges wrongly"),
        (ReadsBeyondTheEnd, "beyond the end"),
        (ReadsStale, "read after overwrite"),
        (HasAnotherClock, "its clock says"),
        (LooksThenWrites, r"8 creations .* at once, 8 succeeded, not one \(in 10 of 10 races\)"),
        (RacesForDeleted, r"8 creations .* at once, 8 succeeded, not one \(in 5 of 10 races\)"),
        (LooksThenReplaces, "8 replacements"),
        (TakesMarkersForObjects, "does not create an object where another one was deleted"),
    ],
)
def test_a_broken_store_is_refused_by_name(store: type[MemoryStore], named: str) -> None:
    broken = store()
    with pytest.raises(StoreRefusedError, match=named) as caught:
        probe(broken)
    assert "docs/explanation/storage.md" in str(caught.value)
    assert MemoryStore.list(broken).objects == ()


@pytest.mark.parametrize(
    ("versioning", "advice"),
    [
        ("enabled", "versioning of the bucket is enabled.*suspend versioning if.*or use a bucket"),
        ("suspended", "versioning of the bucket is suspended.*: use a bucket in which versioning"),
        ("off", "not one .*: use a store of docs"),
    ],
)
def test_a_versioned_bucket_without_atomic_writes_is_refused_with_advice(
    versioning: Any, advice: str
) -> None:
    class Versioned(LooksThenWrites):
        def retention(self) -> Retention:
            return Retention(versioning, object_lock=False)

    with pytest.raises(StoreRefusedError, match=advice):
        probe(Versioned())


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["s3"])
@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_versioned_bucket_of_ceph_is_refused_each_time(
    make_s3: Any, server: Any, status: Literal["Enabled", "Suspended"]
) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint)
    bucket = f"dti-races-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=bucket)
    try:
        # A bucket can be suspended only after it was enabled.
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        for _ in range(3):
            with pytest.raises(
                StoreRefusedError, match=f"versioning of the bucket is {status.lower()}"
            ):
                probe(make_s3(bucket=bucket))
        answer = client.list_object_versions(Bucket=bucket)
        assert "Versions" not in answer
        assert "DeleteMarkers" not in answer
    finally:
        client.delete_bucket(Bucket=bucket)


def test_a_store_that_does_not_answer_is_not_refused() -> None:
    class Down(MemoryStore):
        def create(self, key: str, body: bytes) -> str:
            raise UnavailableError("down")

    with pytest.raises(UnavailableError):
        probe(Down())


def test_a_deletion_that_looks_first_is_found_out() -> None:
    class LooksThenDeletes(MemoryStore):
        def delete_if(self, key: str, *, expected: str) -> None:
            fits = self.head(key).etag == expected
            time.sleep(0.01)
            if not fits:
                raise PreconditionFailedError("another version")
            self.delete(key)

        def replace(self, key: str, body: bytes, *, expected: str) -> str:
            time.sleep(0.005)
            return super().replace(key, body, expected=expected)

    findings = probe(LooksThenDeletes())
    assert not findings.atomic_deletion
    assert findings.erases
    assert any("not atomic" in note for note in findings.notes)


@pytest.mark.parametrize(
    ("retention", "note"),
    [
        (Retention("enabled", False), "Versioning is enabled"),
        (Retention("suspended", False), "Versioning is suspended"),
        (Retention("enabled", True), "Object lock is on"),
        (Retention("unknown", False), "cannot be read"),
        (Retention("off", None), "cannot be read"),
    ],
)
def test_the_versioning_of_a_bucket_is_reported(retention: Retention, note: str) -> None:
    class Keeps(MemoryStore):
        def retention(self) -> Retention:
            return retention

    findings = probe(Keeps())
    assert findings.retention == retention
    assert not findings.erases
    assert any(note in line for line in findings.notes)


@pytest.mark.parametrize("kind", ["moto", pytest.param("s3", marks=pytest.mark.s3)])
def test_versioning_and_object_lock_are_read_from_the_bucket(make_s3: Any, server: Any) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint)
    names = [f"dti-{kind}-{secrets.token_hex(6)}" for kind in ("versions", "locked")]
    try:
        client.create_bucket(Bucket=names[0])
        client.create_bucket(Bucket=names[1], ObjectLockEnabledForBucket=True)
        client.put_bucket_versioning(Bucket=names[0], VersioningConfiguration={"Status": "Enabled"})
        versioned, locked = (make_s3(bucket=name).retention() for name in names)
        assert versioned == Retention("enabled", object_lock=False)
        assert locked == Retention("enabled", object_lock=True)
        client.put_bucket_versioning(
            Bucket=names[0], VersioningConfiguration={"Status": "Suspended"}
        )
        assert make_s3(bucket=names[0]).retention().versioning == "suspended"
    finally:
        for name in names:
            client.delete_bucket(Bucket=name)
