"""The simulated server without faults behaves as every store does, through the real S3Store."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest

from chaos.simulation.bucket import Bucket
from chaos.simulation.process import START, Process
from chaos.simulation.world import World
from services.errors import (
    AlreadyExistsError,
    InvalidRangeError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
)
from services.storage.s3 import S3Store


@pytest.fixture
def store(world: World, open_store: Callable[..., tuple[Process, S3Store]]) -> Any:
    """Return a store whose methods each run as a task to its end."""
    process, store = open_store()

    class Performed:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            method = getattr(store, name)
            return lambda *args, **named: world.perform(process, lambda: method(*args, **named))

    return Performed()


def test_a_created_object_can_be_read(store: Any) -> None:
    etag = store.create("a/b", b"body")
    found = store.read("a/b")
    assert found.body == b"body"
    (listing,) = store.list().objects
    for head in (found.head, store.head("a/b"), listing):
        assert (head.key, head.size, head.etag) == ("a/b", 4, etag)


def test_an_object_is_created_once(store: Any) -> None:
    store.create("a", b"first")
    with pytest.raises(AlreadyExistsError, match="read it"):
        store.create("a", b"second")
    assert store.read("a").body == b"first"


def test_versions_form_a_chain(store: Any, bucket: Bucket) -> None:
    etags = [store.create("a", b"0")]
    for number in range(1, 6):
        etags.append(store.replace("a", b"%d" % number, expected=etags[-1]))
    for stale in etags[:-1]:
        with pytest.raises(PreconditionFailedError, match="as expected"):
            store.replace("a", b"stale", expected=stale)
    assert store.read("a").body == b"5"
    assert [change.previous_etag for change in bucket.journal] == [None, *etags[:-1]]
    assert [change.etag for change in bucket.journal] == etags


def test_equal_bytes_have_equal_etags(store: Any) -> None:
    first = store.create("a", b"A")
    second = store.replace("a", b"B", expected=first)
    assert store.replace("a", b"A", expected=second) == first


def test_a_missing_object_is_not_replaced(store: Any) -> None:
    etag = store.create("a", b"")
    store.delete("a")
    store.delete("a")
    with pytest.raises(NotFoundError):
        store.replace("a", b"", expected=etag)


def test_an_expected_version_is_deleted(store: Any, bucket: Bucket) -> None:
    stale = store.create("a", b"first")
    fresh = store.replace("a", b"second", expected=stale)
    with pytest.raises(PreconditionFailedError):
        store.delete_if("a", expected=stale)
    store.delete_if("a", expected=fresh)
    store.delete_if("a", expected=fresh)
    for read_method in (store.read, store.head):
        with pytest.raises(NotFoundError):
            read_method("a")
    assert [change.kind for change in bucket.journal] == ["put", "put", "delete"]


def test_ranges_are_read(store: Any) -> None:
    store.create("a", b"0123456789")
    assert store.read("a", start=3, length=4).body == b"3456"
    assert store.read("a", start=3, length=4).head.size == 10
    assert store.read("a", start=8, length=40).body == b"89"
    assert store.read("a", start=9).body == b"9"
    assert store.read("a", length=1).body == b"0"
    for start in (10, 99):
        with pytest.raises(InvalidRangeError):
            store.read("a", start=start)


ODD = ["a", "a/1", "a/2/x", "a-b", "a.b", "a0", "aa/1", "b", "b/é", "b/z", "B", "Z/a", "é/x", "犬"]
ODD.sort()


@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_listings_are_paginated(store: Any, delimiter: Literal["", "/"], limit: int) -> None:
    for key in ODD:
        store.create(key, key.encode())
    for prefix in ("", "a", "a/", "b/", "nothing/"):
        keys: list[str] = []
        after: str | None = ""
        while after is not None:
            page = store.list(prefix, after=after, limit=limit, delimiter=delimiter)
            keys += sorted([head.key for head in page.objects] + list(page.prefixes))
            after = page.next
        rest = {key: key[len(prefix) :].partition("/") for key in ODD if key.startswith(prefix)}
        expected = {
            prefix + first + slash if delimiter else key for key, (first, slash, _) in rest.items()
        }
        assert keys == sorted(expected), prefix


def test_a_cursor_may_be_any_key(store: Any) -> None:
    for key in ODD:
        store.create(key, b"")
    for after in ("A", "a", "a/", "a/2", "a/2/x", "a/2/y", "az", "é", "🐕"):
        keys = [head.key for head in store.list(after=after).objects]
        assert keys == [key for key in ODD if key > after], after


def test_its_clock_shows_whole_seconds(store: Any, world: World) -> None:
    world.run(until=10.6)
    store.create("a", b"")
    world.run(until=100.9)
    for head in (store.head("a"), store.read("a").head, store.list().objects[0]):
        assert head.last_modified == START + timedelta(seconds=10)
        assert head.age in (timedelta(seconds=90), timedelta(seconds=91))
    assert store.now() == START + timedelta(seconds=101)


def test_a_store_for_leases_has_the_same_objects_and_shorter_timeouts(
    world: World, open_store: Callable[..., tuple[Process, S3Store]]
) -> None:
    process, store = open_store()
    etag = world.perform(process, lambda: store.create("a", b"first"))
    leases = store.for_leases()
    assert world.perform(process, lambda: leases.read("a")).head.etag == etag
    # Without a connection it is 5 seconds an attempt, or 2 for leases.
    process, broken = open_store(attempts=3, unsent=1.0)
    for opened, least in ((broken, 15.0), (broken.for_leases(), 6.0)):
        begun = world.now
        with pytest.raises(UnavailableError, match="in 3 attempts"):
            world.perform(process, lambda opened=opened: opened.read("a"))
        assert least - 0.1 < world.now - begun < least + 0.5
